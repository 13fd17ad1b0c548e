"""Labels, content credentials and checks of what is published; pure functions over files, used by every stage."""
