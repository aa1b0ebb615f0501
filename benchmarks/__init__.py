"""How fast picie is, beside two yardsticks on the same work: the bare network, and the method as it is usually written."""
