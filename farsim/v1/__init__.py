"""Stubs generated from ``proto/farsim/v1`` by ``make proto``. Not edited by hand."""
