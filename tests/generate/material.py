"""Texts in the public domain, and sentences made for these tests."""

POEMS = [
    "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。",
    "千山鸟飞绝，万径人踪灭。\n孤舟蓑笠翁，独钓寒江雪。",
    "空山不见人，但闻人语响。\n返景入深林，复照青苔上。",
    "独坐幽篁里，弹琴复长啸。\n深林人不知，明月来相照。",
    "众鸟高飞尽，孤云独去闲。\n相看两不厌，只有敬亭山。",
    "红豆生南国，春来发几枝。\n愿君多采撷，此物最相思。",
]
PROSE = [
    "The ferry left at noon. A gull sat on the rail and watched the harbour go. Nobody spoke until the lamp was lit.",
    "She opened the oven door. The bread was dark and good, and the whole room smelled of rye and of the winter.",
    "We found the old map in a drawer. It showed the river, the mill and a road that nobody has walked for years.",
    "The clock of the school stood still. Every child in the yard looked up at it and then ran on, laughing.",
    "Rain came down the valley at night. In the morning the stones of the path were clean and the garden was loud.",
]
