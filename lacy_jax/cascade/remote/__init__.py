"""Servers with OpenAI's interface, which the http partner and the evidence's judge ask: addresses, keys, retries."""
