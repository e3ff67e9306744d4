"""The learned engine: what to believe, learned from simulated surveys; the solve itself stays exact.

features -> message passing -> weights, variances and precisions -> exact solve. `features` says what is seen,
`autoencoder` and `network` what is made of it, `ties` and `exact` are the solve and its gradients, `engine` solves a
problem with shipped weights, and `world`, `samples`, `losses` and `train` make those weights. torch is imported by the
modules that need it; none of them is imported before a learned solve is asked for.
"""
