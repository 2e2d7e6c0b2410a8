// One client's environments: requests in, replies out, each carried out once.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>

#include "farsim/model.h"

namespace farsim {

using Clock = std::chrono::steady_clock;
inline constexpr char kProtocolVersion[] = "1.0";

// What clients may use together, and what holds where they do not say.
struct Limits {
  uint32_t sessions = 64;
  uint32_t environments = 4096;
  uint64_t message_bytes = 64 << 20;
  uint32_t in_flight = 16;
  double lease_seconds = 60;
  double heartbeat_seconds = 2;
};

v1::SimReply error_reply(uint64_t sequence, const Refusal& refusal);
void check_version(const std::string& version);  // Refuses another major version.
v1::SimulatorDescription describe(const Model& model);

// Outlives the streams that carry it. `answer` may be called from the thread of whichever stream
// carries it; all else may be called from any thread.
class Session {
 public:
  // Refuses what the model or this session cannot do.
  Session(const Model& model, const v1::Open& open, const Limits& limits,
          const std::atomic<bool>& draining);

  // The serialised reply to a request, whose bytes are `raw`; empty if `stream` was superseded.
  std::string answer(const void* stream, const v1::SimRequest& request, const std::string& raw);

  // The highest number carried out or being carried out.
  uint64_t last_sequence() const { return last_.load(); }
  // The number being carried out, 0 if none, and since when.
  std::pair<uint64_t, Clock::time_point> busy() const;

  std::string token;
  double lease_seconds, heartbeat_seconds;
  std::atomic<const void*> stream{nullptr};  // Which one carries the session.
  Clock::time_point detached_at;             // When the last one broke; the host's to guard.
  std::atomic<bool> closed{false};
  size_t size() const { return places_.size(); }

 private:
  enum class Episode { kNone, kRunning, kOver };
  struct Place {
    std::unique_ptr<Environment> environment;
    Random random;
    Settings settings{};  // As clients gave them.
    Settings drawn{};     // As the episode uses them.
    Episode episode = Episode::kNone;
  };
  struct Changes;  // What a request did, for its Batch.

  v1::SimReply carry_out(const v1::SimRequest& request);
  v1::Opened opened() const;
  v1::Batch reset(const v1::Reset& request);
  v1::Batch step(const v1::Step& request, v1::Timing& timing);
  v1::States save(const v1::SaveState& request) const;
  v1::Batch load(const v1::LoadState& request);

  std::vector<uint32_t> named(bool all, const v1::Rows& rows) const;
  void read_actions(const v1::Step& request, const std::vector<uint32_t>& envs);
  void advance(uint32_t env, size_t row, Changes& changes);
  void begin(uint32_t env);
  void observe(uint32_t env);
  v1::Batch batch(const std::vector<uint32_t>& envs, const Changes& changes) const;

  const Model& model_;
  const Limits& limits_;
  const std::atomic<bool>& draining_;
  v1::AutoresetMode mode_;
  Settings settings_;  // As the session was opened with.
  std::vector<Leaf> observation_leaves_, action_leaves_;
  std::vector<Place> places_;
  std::vector<std::string> observations_;  // For each leaf the last row of every environment.
  std::vector<std::string> actions_;       // The same of this step's actions.
  std::vector<std::string> scratch_;       // One row of each leaf.

  std::mutex one_at_a_time_;
  struct Kept {
    uint64_t sequence;
    std::string request, reply;
  };
  std::deque<Kept> kept_;
  std::atomic<uint64_t> last_{0};
  mutable std::mutex busy_mutex_;
  std::pair<uint64_t, Clock::time_point> busy_{0, {}};
};

}  // namespace farsim
