// A simulator's program: serves a model, or dials in with it, until SIGTERM.
#pragma once

#include <signal.h>

#include "farsim/model.h"

namespace farsim {

class Flags;
class Host;

int serve(const Model& model, int argc, char** argv);

// Dials a gateway until a signal of `stop` comes, then drains.
int attach(Host& host, const Flags& flags, int seats, const sigset_t& stop);

}  // namespace farsim
