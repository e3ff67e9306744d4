"""How the model is solved: assembly, engines, factor, gradients, uncertainties, robust estimation."""
