"""What attention costs: operations and bytes of every site, seen in a call and predicted."""
