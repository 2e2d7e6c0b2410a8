"""What the processes of ``farsim bench`` have in common: taking turns."""
