"""What is learned from the pseudo-labels: PiCIE and its baseline MDC."""
