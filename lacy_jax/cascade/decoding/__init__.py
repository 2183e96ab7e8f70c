"""KV-cached decoding of rows: the engine, its compiled programs, drawing tokens."""
