#include "cart_pole.h"
#include "farsim/serve.h"

int main(int argc, char** argv) { return farsim::serve(cart_pole(), argc, argv); }
