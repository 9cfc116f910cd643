"""The calibrated half: the user's data, what the network sees on it, weights refitted to that, and what it costs.

arrays, images, functions, labels, preprocess, dataset   samples by index, from wherever they come; shuffled and split
judge        which metric judges which output, and how much of it is lost
layer, level what is approximated, and one way to do it, more or less radical
capture, evidence   what the network sees of a layer on the samples
fitter, store       levels fitted alone or one after the other, and remembered
points, search   which levels, under the budget, behind the gate
tail         the end of the network alone, where only late layers may change
conv_levels, head_levels   the levels of convolutions and of fully connected layers

The numerical core (arrays in, frozen values out; no graph, no runtime):

moments      what the data say about a layer: means and covariances, mergeable; samples of rows
patches      the rows that a convolution multiplies its weights with
covariance   estimates of a covariance from few rows; priors: what those of heads are shrunk to
composition  two convolutions in a row as one kernel
forms        factorised forms of a convolution: windows, shapes, costs
solve        the fit of such a form to a layer; starts, models: where it begins, what it moves in
relu         its last stage again, for the error after a ReLU
heads        smaller forms of a fully connected layer; wide_heads: the same from a sample of rows
head_forms   which forms there are, and how they are written
prune        which channels to remove, and what the consumer's weights become
"""
