// An inverted pendulum on a cart, in a steady wind.
//
// The equations are those of Barto, Sutton and Anderson, "Neuronlike adaptive elements that can
// solve difficult learning control problems" (1983), without friction, integrated with Euler's
// method; the force is continuous, and the wind pushes the cart.
#pragma once

#include "farsim/model.h"

farsim::Model cart_pole();

// A controller that looks at the pole alone, with which the wind carries the cart away. Takes and
// gives what the spaces have: position, velocity, angle, angular velocity; a share of the force.
float keep_upright(const float* observation);
