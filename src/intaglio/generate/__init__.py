"""Stage generate: candidates are made from models, with seeds recorded, for a critic to choose from."""
