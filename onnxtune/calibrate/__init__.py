"""The numerical core of calibrated rewrites: arrays in, frozen values out; no graph, no runtime.

moments     what calibration data says about a layer: means and covariances, mergeable
patches     the rows that a convolution multiplies its weights with
covariance  estimates of a covariance from few rows
forms       factorised forms of a convolution kernel
solve       the fit of such a form to a layer
heads       smaller forms of a fully connected layer
prune       which channels to remove, and what the consumer's weights become
"""
