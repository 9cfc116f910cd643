"""Channel layouts: which channels of which tensors belong together, and rewriting a graph when their number changes.

axis.py        the channel axis of a tensor as a list of channel identities; scatter and gather of weights
ranges.py      what values a pad channel can take
operators.py   what an operator does to layouts: the interface and the tools it is given
contracting.py pointwise.py quantized.py spatial.py rearranging.py reshaping.py    the operators, family by family
identities.py  which channels are one, and which change together only
table.py       operator name -> what it does
flow.py        the analysis of a whole graph: classes of channels that are resized together
resized.py     the replacement for a graph region under new channel counts
cost.py        what the nodes around a run cost for given channel counts
search.py      the counts with the least cost
"""
