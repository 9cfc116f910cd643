"""The calibrated half: the user's data, what the network sees on it, weights refitted to that, and what it costs.

arrays.py images.py functions.py   where samples come from
preprocess.py                      8-bit images to what the network expects
dataset.py                         samples by index, shuffled and split

The numerical core, arrays in and frozen values out; no graph, no runtime:

moments     what calibration data says about a layer: means and covariances, mergeable
patches     the rows that a convolution multiplies its weights with
covariance  estimates of a covariance from few rows
forms       factorised forms of a convolution kernel
solve       the fit of such a form to a layer
heads       smaller forms of a fully connected layer
prune       which channels to remove, and what the consumer's weights become
"""
