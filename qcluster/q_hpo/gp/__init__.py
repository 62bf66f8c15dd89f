"""The Gaussian process: model, acquisition, feasibility, and the strategy that uses them."""
