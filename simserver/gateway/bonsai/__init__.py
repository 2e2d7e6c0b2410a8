"""The simulator API of the retired Bonsai service, as ``microsoft-bonsai-api`` speaks it.

Simulators register over REST and ask again and again what to do (``endpoint``, ``registered``);
each one that is registered can be dealt to an environment of a Farsim session (``workspace``,
``simulator``).
"""
