"""The numerical core of calibrated rewrites: arrays in, frozen values out; no graph, no runtime.

moments      what calibration data says about a layer: means and covariances, mergeable; samples of rows
patches      the rows that a convolution multiplies its weights with
covariance   estimates of a covariance from few rows
composition  two convolutions in a row as one kernel
forms        factorised forms of a convolution: windows, shapes, costs
solve        the fit of such a form to a layer; starts, models: where it begins, what it moves in
relu         its last stage again, for the error after a ReLU
heads        smaller forms of a fully connected layer
prune        which channels to remove, and what the consumer's weights become
"""
