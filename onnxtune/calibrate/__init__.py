"""The calibrated half: the user's data, what the network sees on it, weights refitted to that, and what it costs.

arrays.py images.py functions.py   where samples come from
preprocess.py                      8-bit images to what the network expects
dataset.py                         samples by index, shuffled and split
"""
