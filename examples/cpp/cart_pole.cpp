#include "cart_pole.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

namespace {

constexpr double kGravity = 9.8;  // m/s2
constexpr double kStepSeconds = 0.02;
constexpr double kTrack = 2.4;       // From the middle to either end, m.
constexpr double kUpright = 0.2095;  // The largest angle, rad: 12 degrees.
constexpr double kStart = 0.05;      // The largest deviation at the start, in each unit.
constexpr int64_t kEpisodeSteps = 250;

class CartPole : public farsim::Environment {
 public:
  explicit CartPole(const farsim::Settings& settings)
      : cart_mass_(settings.at("cart_mass")),
        pole_mass_(settings.at("pole_mass")),
        half_length_(settings.at("pole_length") / 2),
        force_(settings.at("force")),
        pace_(settings.at("pace")) {}

  void reset(farsim::Random& random, farsim::Settings& settings) override {
    for (double* part : {&now_.position, &now_.velocity, &now_.angle, &now_.spin}) {
      *part = random.uniform(-kStart, kStart);
    }
    now_.angle += settings.at("initial_angle");
    now_.wind = settings.at("wind");
    now_.fails_at = settings.at("encoder_fails_at");
    now_.step = 0;
  }

  farsim::Outcome step(farsim::Row action) override {
    if (pace_ > 0) std::this_thread::sleep_for(std::chrono::duration<double>(pace_));
    if (++now_.step == now_.fails_at) throw std::runtime_error("the angle encoder has failed");
    const double mass = cart_mass_ + pole_mass_, sine = std::sin(now_.angle),
                 cosine = std::cos(now_.angle);
    const double pushed = (force_ * *action.at<float>(0) + now_.wind +
                           pole_mass_ * half_length_ * now_.spin * now_.spin * sine) /
                          mass;
    const double turning = (kGravity * sine - cosine * pushed) /
                           (half_length_ * (4.0 / 3.0 - pole_mass_ * cosine * cosine / mass));
    const double speeding = pushed - pole_mass_ * half_length_ * turning * cosine / mass;
    now_.position += kStepSeconds * now_.velocity;
    now_.velocity += kStepSeconds * speeding;
    now_.angle += kStepSeconds * now_.spin;
    now_.spin += kStepSeconds * turning;
    const bool lost = std::abs(now_.position) > kTrack || std::abs(now_.angle) > kUpright;
    return {1.0, lost, !lost && now_.step >= kEpisodeSteps};
  }

  void observe(farsim::Row observation) const override {
    float* to = observation.at<float>(0);
    for (double part : {now_.position, now_.velocity, now_.angle, now_.spin}) {
      *to++ = static_cast<float>(part);
    }
  }

  std::string save() const override { return {reinterpret_cast<const char*>(&now_), sizeof(now_)}; }

  void load(const std::string& bytes) override {
    if (bytes.size() != sizeof(now_)) throw std::invalid_argument("not a state of cart-pole");
    State state;
    std::memcpy(&state, bytes.data(), sizeof(state));
    const bool possible = std::abs(state.position) <= kTrack && std::abs(state.angle) <= kUpright &&
                          std::isfinite(state.velocity) && std::isfinite(state.spin) &&
                          std::isfinite(state.wind) && 0 <= state.step &&
                          state.step < kEpisodeSteps;
    if (!possible) throw std::invalid_argument("no state in which cart-pole can be");
    now_ = state;
  }

 private:
  struct State {
    double position, velocity, angle, spin;  // m, m/s, rad, rad/s
    double wind;                             // N
    double fails_at;
    int64_t step;
  };
  const double cart_mass_, pole_mass_, half_length_, force_, pace_;
  State now_{};
};

}  // namespace

farsim::Model cart_pole() {
  const float any = std::numeric_limits<float>::infinity();
  farsim::Model model;
  model.name = "cart-pole";
  model.description = "Keep a pole upright on a cart, in a steady wind";
  model.observation_space = farsim::box({-any, -any, -any, -any}, {any, any, any, any});
  model.action_space = farsim::box({-1}, {1});
  model.parameters = {
      {"cart_mass", "the cart's mass", "kg", 0.1, 10, 1.0},
      {"pole_mass", "the pole's mass", "kg", 0.01, 1, 0.1},
      {"pole_length", "the pole's length", "m", 0.2, 4, 1.0},
      {"force", "the force of an action of 1", "N", 1, 50, 10},
      {"pace", "how long a step takes besides computing; 0: as fast as it goes", "s", 0, 10, 0},
      {"wind", "a force on the cart", "N", -5, 5, 2, true},
      {"initial_angle", "the angle that episodes start about", "rad", -0.15, 0.15, 0, true},
      {"encoder_fails_at",
       "the step in which the simulator fails, to see what a fault is; 0: never", "", 0, 1e6, 0,
       true},
  };
  model.max_episode_steps = kEpisodeSteps;
  model.can_save_state = true;
  model.make = [](const farsim::Settings& settings) {
    return std::make_unique<CartPole>(settings);
  };
  return model;
}

float keep_upright(const float* observation) {
  return std::clamp(5 * observation[2] + observation[3], -1.0f, 1.0f);
}
