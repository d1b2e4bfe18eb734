"""One thin file per foreign library. Each is imported by name; none is loaded with polyrank."""
