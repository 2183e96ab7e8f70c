"""The decoder: tokens in, hidden states out. It knows neither the objective nor `<CALL>`."""
