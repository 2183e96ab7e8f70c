"""The inspector: prepared documents and packed windows as coloured text, on a terminal or a page."""
