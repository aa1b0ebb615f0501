"""The methods, which learn from the pseudo-labels: PiCIE and its baseline MDC."""
