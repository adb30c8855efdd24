"""The mathematics, in numpy alone: pure functions of arrays that run without Java.

Docstrings use the symbols of this table, code uses the names.

===============  ==================================  ====================  =========================
symbol           code                                shape                 meaning
===============  ==================================  ====================  =========================
``R_ui``         ``rating``                          (n,)                  observed rating
``α``            ``alpha``                           ()                    global bias
``β_u``, ``β_i`` ``beta`` of the user / item side    (n_u,), (n_i,)        biases
``γ_u``, ``γ_i`` ``gamma`` of the user / item side   (n_u, k), (n_i, k)    factors, ``k`` = rank
``I_u``, ``U_i`` a block's row                                             items rated by u,
                                                                           users who rated i
``λ``            ``reg``                             ()                    regularization
``θ``            ``theta``                           (p,)                  all weights of a network,
                                                                           flat
===============  ==================================  ====================  =========================
"""
