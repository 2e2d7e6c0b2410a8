// Cart-pole as a program that owns its loop and asks a policy for actions, by farsim.v1.Policy.
//
// Where no answer comes within the deadline, `keep_upright` acts, and the server is told so with
// the next observation. Where the connection breaks, it plays the episode to its end; the next one
// begins a new session.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <mutex>
#include <numeric>
#include <queue>
#include <thread>

#include "cart_pole.h"
#include "farsim/flags.h"
#include "farsim/session.h"
#include "farsim/v1/policy.grpc.pb.h"

namespace v1 = farsim::v1;

namespace {

constexpr char kUsage[] =
    "Plays cart-pole with a policy that farsim policy or farsim train --live serves.\n"
    "  --policy HOST:PORT    127.0.0.1:50061\n"
    "  --mode serve          or collect: the learner gets the experience\n"
    "  --episodes 10         0: until it is stopped\n"
    "  --seed 0              of the first episode\n"
    "  --deadline 1.0        seconds to wait for an action\n"
    "  --wind 2              newtons\n"
    "  --token-file, --tls-ca, --tls-cert, --tls-key\n";

// One session over one stream. What comes is read in a thread, so that waiting can end.
class Session {
 public:
  Session(v1::Policy::Stub& stub, const std::string& token, v1::LiveMode mode) {
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    call_ = stub.Live(&context_);
    reader_ = std::thread([this] { read(); });
    v1::LiveEvent event;
    event.mutable_hello()->set_protocol_version(farsim::kProtocolVersion);
    event.mutable_hello()->set_mode(mode);
    event.mutable_hello()->set_client("cart-pole (C++)");
    const farsim::Model model = cart_pole();
    auto* group = event.mutable_hello()->add_groups();
    group->set_name("agents");
    group->add_agents("agent");
    *group->mutable_observation_space() = model.observation_space;
    *group->mutable_action_space() = model.action_space;
    v1::LiveReply reply;
    while (take(send(event), std::chrono::seconds(30), reply) && !reply.has_welcome()) {
    }
    if (!reply.has_welcome()) {
      context_.TryCancel();
      reader_.join();
      throw std::runtime_error("the server does not welcome: " + why_ + " " +
                               call_->Finish().error_message());
    }
  }

  ~Session() {
    v1::LiveEvent event;
    event.mutable_goodbye();
    v1::LiveReply reply;
    if (!take(send(event), std::chrono::seconds(1), reply)) context_.TryCancel();
    call_->WritesDone();
    reader_.join();
    call_->Finish();
  }

  // Returns the event's number.
  uint64_t send(v1::LiveEvent& event) {
    event.set_sequence(++sequence_);
    if (!call_->Write(event)) lose("the connection has broken");
    return sequence_;
  }

  // Waits for the reply to an event; earlier ones are passed over. False if it is late, or the
  // session is lost.
  template <class Duration>
  bool take(uint64_t sequence, Duration deadline, v1::LiveReply& reply) {
    const auto until = std::chrono::steady_clock::now() + deadline;
    std::unique_lock lock(mutex_);
    while (changed_.wait_until(lock, until, [this] { return lost_ || !replies_.empty(); }) &&
           !replies_.empty()) {
      reply = std::move(replies_.front());
      replies_.pop();
      if (reply.sequence() == sequence) return true;
    }
    return false;
  }

  bool lost() {
    std::lock_guard lock(mutex_);
    return lost_;
  }

  std::string why() {
    std::lock_guard lock(mutex_);
    return why_;
  }

 private:
  void read() {
    v1::LiveReply reply;
    while (call_->Read(&reply)) {
      if (reply.has_draining()) lose("the server is about to stop");
      if (reply.has_error()) lose(reply.error().message());
      std::lock_guard lock(mutex_);
      replies_.push(reply);
      changed_.notify_one();
    }
    lose("the stream has ended");
  }

  void lose(const std::string& why) {
    std::lock_guard lock(mutex_);
    if (!lost_) why_ = why;
    lost_ = true;
    changed_.notify_one();
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LiveEvent, v1::LiveReply>> call_;
  uint64_t sequence_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<v1::LiveReply> replies_;
  bool lost_ = false;
  std::string why_;
  std::thread reader_;
};

// The world, which runs whether or not anyone says what to do.
class World {
 public:
  explicit World(double wind) : model_(cart_pole()) {
    for (const auto& parameter : model_.parameters) settings_[parameter.name] = parameter.value;
    settings_["wind"] = wind;
    environment_ = model_.make(settings_);
  }

  void reset(uint64_t seed) {
    farsim::Random random(seed);
    environment_->reset(random, settings_);
    look();
  }

  farsim::Outcome step(float action) {
    *farsim::Row(action_leaves_, action_, 0).at<float>(0) = action;
    const auto outcome = environment_->step(farsim::Row(action_leaves_, action_, 0));
    look();
    return outcome;
  }

  const float* seen() { return farsim::Row(leaves_, observation_, 0).at<float>(0); }

 private:
  void look() { environment_->observe(farsim::Row(leaves_, observation_, 0)); }

  const farsim::Model model_;
  farsim::Settings settings_;
  std::unique_ptr<farsim::Environment> environment_;
  const std::vector<farsim::Leaf> leaves_ = farsim::leaves(model_.observation_space);
  const std::vector<farsim::Leaf> action_leaves_ = farsim::leaves(model_.action_space);
  std::vector<std::string> observation_{std::string(leaves_[0].bytes(), '\0')};
  std::vector<std::string> action_{std::string(action_leaves_[0].bytes(), '\0')};
};

struct Score {
  double total = 0;
  int fallbacks = 0;
};

// One episode with a policy; `session` may be lost on the way, or absent.
Score play(World& world, uint64_t seed, Session* session, uint64_t number, double deadline) {
  Score score;
  world.reset(seed);
  bool ours = session != nullptr, over = false, acted_alone = false;
  double reward = 0;
  float action = 0;
  v1::LiveEvent event;
  if (ours) {
    event.mutable_start()->set_episode(number);
    session->send(event);
  }
  const auto say = [&](v1::AgentObservation* agent, const farsim::Outcome& outcome) {
    *agent->mutable_observation()->add_tensors() = farsim::pack({1, 4}, world.seen(), 4);
    agent->set_reward(reward);
    agent->set_terminated(outcome.terminated);
    agent->set_truncated(outcome.truncated);
    if (acted_alone)
      *agent->mutable_action_taken()->add_tensors() = farsim::pack({1, 1}, &action, 1);
  };
  while (!over) {
    bool answered = false;
    if (ours) {
      event.mutable_observe()->Clear();
      event.mutable_observe()->set_episode(number);
      say(event.mutable_observe()->add_agents(), {});
      v1::LiveReply reply;
      answered =
          session->take(session->send(event), std::chrono::duration<double>(deadline), reply) &&
          reply.actions().agents_size() == 1;
      if (answered) {
        const auto& sent = reply.actions().agents(0).action().tensors(0);
        std::memcpy(&action, sent.data().data(), std::min(sent.data().size(), sizeof(action)));
      }
      ours = !session->lost();
    }
    if (!answered) {
      action = keep_upright(world.seen());
      ++score.fallbacks;
    }
    acted_alone = !answered;
    const farsim::Outcome outcome = world.step(action);
    reward = outcome.reward;
    score.total += reward;
    over = outcome.terminated || outcome.truncated;
    if (over && ours) {
      event.mutable_end()->set_episode(number);
      say(event.mutable_end()->add_agents(), outcome);
      session->send(event);
    }
  }
  return score;
}

}  // namespace

int main(int argc, char** argv) {
  const farsim::Flags flags(argc, argv,
                            {{"policy", "127.0.0.1:50061"},
                             {"mode", "serve"},
                             {"episodes", "10"},
                             {"seed", "0"},
                             {"deadline", "1.0"},
                             {"wind", "2"},
                             {"token-file", ""},
                             {"tls-ca", ""},
                             {"tls-cert", ""},
                             {"tls-key", ""}},
                            kUsage);
  if (flags["mode"] != "serve" && flags["mode"] != "collect") {
    std::cerr << "error: --mode is serve or collect\n";
    return 2;
  }
  const v1::LiveMode mode =
      flags["mode"] == "collect" ? v1::LIVE_MODE_COLLECT : v1::LIVE_MODE_SERVE;
  const auto stub = v1::Policy::NewStub(grpc::CreateCustomChannel(
      flags["policy"], farsim::client_credentials(flags), farsim::channel_arguments()));
  const std::string token = farsim::read_token(flags["token-file"]);
  const auto first = static_cast<uint64_t>(flags.number("seed"));
  const auto episodes = static_cast<uint64_t>(flags.number("episodes"));
  World world(flags.number("wind"));
  std::unique_ptr<Session> session;
  Score all, alone;
  for (uint64_t i = 0; episodes == 0 || i < episodes; ++i) {
    if (session && session->lost()) {
      std::cerr << "the session is lost: " << session->why() << "\n";
      session = nullptr;
    }
    try {
      if (!session) session = std::make_unique<Session>(*stub, token, mode);
    } catch (const std::runtime_error& error) {
      if (i == 0) {  // The first time somebody should be there.
        std::cerr << "error: " << error.what() << "\n";
        return 1;
      }
    }
    const Score score = play(world, first + i, session.get(), i + 1, flags.number("deadline"));
    const Score ruled = play(world, first + i, nullptr, 0, 0);
    std::printf("episode %lu: return %g, of the rule %g, fallbacks %d\n", i, score.total,
                ruled.total, score.fallbacks);
    std::fflush(stdout);
    all.total += score.total;
    all.fallbacks += score.fallbacks;
    alone.total += ruled.total;
  }
  std::printf("mean return %g, of the rule %g, fallbacks %d\n", all.total / episodes,
              alone.total / episodes, all.fallbacks);
  return 0;
}
