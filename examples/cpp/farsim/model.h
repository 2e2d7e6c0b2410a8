// What a simulator's author writes: a Model, which makes Environments.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "farsim/space.h"

namespace farsim {

// A number that a client may choose.
struct Parameter {
  std::string name, description, unit;
  double low, high, value;  // `value` holds where the client says nothing.
  bool per_episode = false;
};

// The values of parameters, by name.
using Settings = std::map<std::string, double>;

// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): eight
// bytes of state, and a few lines in any language.
class Random {
 public:
  explicit Random(uint64_t seed) : state(seed) { state = next(); }
  uint64_t next() {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform(double low, double high) { return low + (high - low) * (next() >> 11) * 0x1p-53; }

  uint64_t state;
};

struct Outcome {
  double reward = 0;
  bool terminated = false;  // The world reached an end.
  bool truncated = false;   // Stopped from outside, by a time limit for instance.
};

// One independent instance, with one agent. Whatever a method throws ends the episode as a fault;
// the environment is then made anew.
class Environment {
 public:
  virtual ~Environment() = default;

  // Starts an episode. `settings` has every parameter; a value that is drawn is written there.
  virtual void reset(Random& random, Settings& settings) = 0;

  // Advances by one action, a member of the action space.
  virtual Outcome step(Row action) = 0;

  // Writes every element of the observation.
  virtual void observe(Row observation) const = 0;

  // Everything that decides the future of the episode, but for the random stream; and back.
  // `load` throws std::invalid_argument for bytes that are no such state.
  virtual std::string save() const { return {}; }
  virtual void load(const std::string&) {}
};

struct Model {
  std::string name, description;
  v1::Space observation_space, action_space;
  std::vector<Parameter> parameters;
  uint64_t max_episode_steps = 0;  // 0: no bound is known.
  bool can_save_state = false;
  // With a value of every parameter. Throws std::invalid_argument for values that are valid one by
  // one but do not go together.
  std::function<std::unique_ptr<Environment>(const Settings&)> make;
};

}  // namespace farsim
