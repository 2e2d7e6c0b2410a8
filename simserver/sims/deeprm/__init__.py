"""DeepRM: multi-resource cluster scheduling, a whole batch of clusters at a time.

Behaviour follows the program of Mao, Alizadeh, Menache and Kandula, "Resource Management with Deep
Reinforcement Learning" (HotNets 2016), https://github.com/hongzimao/deeprm. "SPEC" in the
comments is the description of that program that lies with its recordings, under
``tests/data/reference/deeprm``.
"""

from simserver.sims.deeprm.simulator import DeepRM

__all__ = ["DeepRM"]
