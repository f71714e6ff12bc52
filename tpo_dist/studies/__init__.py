"""The paper's experiments, and ours, as declarative studies: what varies, what is reported, what it is held against."""
