#include "farsim/host.h"

namespace farsim {
namespace {

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr auto kOpenWithin = std::chrono::minutes(1);

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

// -- one stream ------------------------------------------------------------------------------

void Talk::begin() {
  host_.enter(shared_from_this());
  std::thread([self = shared_from_this()] { self->run(); }).detach();
}

void Talk::ask(std::string request) {
  std::lock_guard lock(mutex_);
  request_ = std::move(request);
  working_ = true;
  last_word_ = Clock::now();
  changed_.notify_one();
}

void Talk::gone() {
  {
    std::lock_guard lock(mutex_);
    wire_ = nullptr;
    changed_.notify_one();
  }
  host_.leave(*this);
}

void Talk::end(const grpc::Status& status) {
  std::lock_guard lock(mutex_);
  if (wire_) wire_->end(status);
}

void Talk::notify(const v1::SimReply& notice) {
  std::lock_guard lock(mutex_);
  if (wire_) wire_->send(notice.SerializeAsString());
}

void Talk::run() {
  std::unique_lock lock(mutex_);
  if (wire_) wire_->read();
  while (true) {
    changed_.wait(lock, [this] { return !wire_ || !request_.empty(); });
    if (request_.empty()) break;
    const std::string raw = std::exchange(request_, {});
    lock.unlock();
    v1::SimRequest request;
    std::string reply;
    const bool readable = request.ParseFromString(raw);
    if (readable) {
      reply = session ? session->answer(this, request, raw) : host_.first(*this, request, raw);
    }
    const bool closed = session && session->closed;
    if (closed) host_.close(session);
    lock.lock();
    working_ = false;
    last_word_ = Clock::now();
    if (!wire_) break;
    if (!reply.empty()) wire_->send(reply);
    if (!readable) {
      wire_->end({grpc::StatusCode::INVALID_ARGUMENT, "these bytes are no farsim.v1.SimRequest"});
    } else if (closed) {
      wire_->end(grpc::Status::OK);
    } else {
      wire_->read();
    }
  }
  lock.unlock();
  std::lock_guard host_lock(host_.mutex_);
  --host_.threads_;
  host_.changed_.notify_all();
}

void Talk::tick(Clock::time_point now) {
  std::shared_ptr<Session> carried;
  {
    std::lock_guard host_lock(host_.mutex_);
    carried = session;
  }
  std::lock_guard lock(mutex_);
  if (!wire_) return;
  if (!carried && !working_) {
    if (!patient && now - last_word_ > kOpenWithin) {
      wire_->end({grpc::StatusCode::DEADLINE_EXCEEDED, "no session was opened on this stream"});
    }
    return;
  }
  // Without a session it is `open` that is being carried out.
  const auto [sequence, since] = carried ? carried->busy() : std::pair{uint64_t{1}, last_word_};
  const double longest = carried ? carried->heartbeat_seconds : host_.limits_.heartbeat_seconds;
  // A tick earlier rather than a tick too late.
  if (sequence == 0 || seconds(now + 2 * kTick - last_word_) < longest) return;
  v1::SimReply beat;
  beat.set_sequence(sequence);
  beat.mutable_heartbeat()->set_elapsed_seconds(seconds(now - since));
  wire_->send(beat.SerializeAsString());
  last_word_ = now;
}

// -- all of them -----------------------------------------------------------------------------

Host::Host(const Model& model, const Limits& limits) : model_(model), limits_(limits) {
  ticker_ = std::thread([this] { tick(); });
}

Host::~Host() {
  std::unique_lock lock(mutex_);
  over_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return threads_ == 0; });
  lock.unlock();
  ticker_.join();
}

v1::DescribeReply Host::describe() const {
  v1::DescribeReply reply;
  reply.set_protocol_version(kProtocolVersion);
  reply.set_server(model_.name + " (C++)");
  *reply.add_simulators() = farsim::describe(model_);
  reply.mutable_limits()->set_max_sessions(limits_.sessions);
  reply.mutable_limits()->set_max_environments(limits_.environments);
  reply.mutable_limits()->set_max_message_bytes(limits_.message_bytes);
  reply.mutable_limits()->set_max_in_flight(limits_.in_flight);
  return reply;
}

// The reply to a request on a stream that carries no session yet.
std::string Host::first(Talk& talk, const v1::SimRequest& request, const std::string& raw) try {
  if (draining_) throw Refusal(v1::ERROR_CODE_DRAINING, "the server is about to stop");
  if (request.has_resume()) {
    check_version(request.resume().protocol_version());
    std::lock_guard lock(mutex_);
    const auto found = sessions_.find(request.resume().session_token());
    const bool here = talks_.count(talk.shared_from_this()) > 0;  // The stream has not broken.
    if (found == sessions_.end() || found->second->closed || !here) {
      throw Refusal(v1::ERROR_CODE_SESSION_LOST,
                    "no session has this token: it was closed, or its lease ran out",
                    "session_token");
    }
    talk.session = found->second;
    const void* before = talk.session->stream.exchange(&talk);
    for (const auto& other : talks_) {
      if (other.get() == before) {
        other->end({grpc::StatusCode::ABORTED, "another stream has resumed this session"});
      }
    }
    v1::SimReply reply;
    reply.mutable_resumed()->set_last_sequence(talk.session->last_sequence());
    return reply.SerializeAsString();
  }
  if (!request.has_open()) {
    throw Refusal(v1::ERROR_CODE_PROTOCOL, "the first request is 'open' or 'resume'");
  }
  if (request.sequence() != 1) {
    throw Refusal(v1::ERROR_CODE_SEQUENCE, "'open' has number 1", "sequence");
  }
  const v1::Open& open = request.open();
  check_version(open.protocol_version());
  if (!open.simulator().empty() && open.simulator() != model_.name) {
    throw Refusal(v1::ERROR_CODE_UNKNOWN_SIMULATOR,
                  "no simulator '" + open.simulator() + "' here, only '" + model_.name + "'",
                  "simulator");
  }
  const size_t count = open.num_environments();
  if (count == 0) {
    throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT, "a session has at least one environment",
                  "num_environments");
  }
  {
    std::lock_guard lock(mutex_);
    size_t taken = reserved_ + count;
    for (const auto& [token, session] : sessions_) taken += session->size();
    if (sessions_.size() + reserved_sessions_ >= limits_.sessions || taken > limits_.environments) {
      throw Refusal(v1::ERROR_CODE_LIMIT,
                    "this server has " + std::to_string(limits_.sessions) + " sessions and " +
                        std::to_string(limits_.environments) + " environments at most",
                    "num_environments");
    }
    reserved_ += count;
    ++reserved_sessions_;
  }
  std::shared_ptr<Session> session;
  std::exception_ptr failure;
  try {
    session = std::make_shared<Session>(model_, open, limits_, draining_);
  } catch (...) {
    failure = std::current_exception();
  }
  {
    std::lock_guard lock(mutex_);
    reserved_ -= count;
    --reserved_sessions_;
    if (failure) std::rethrow_exception(failure);
    sessions_[session->token] = session;
    talk.session = session;
    session->stream = &talk;
    if (talks_.count(talk.shared_from_this()) == 0) {  // The stream broke meanwhile.
      session->stream = nullptr;
      session->detached_at = Clock::now();
    }
  }
  return session->answer(&talk, request, raw);
} catch (const Refusal& refusal) {
  return error_reply(request.sequence(), refusal).SerializeAsString();
} catch (const std::exception& error) {
  return error_reply(request.sequence(), Refusal(v1::ERROR_CODE_SIMULATOR, error.what()))
      .SerializeAsString();
}

void Host::close(const std::shared_ptr<Session>& session) {
  std::lock_guard lock(mutex_);
  sessions_.erase(session->token);
}

void Host::enter(const std::shared_ptr<Talk>& talk) {
  std::lock_guard lock(mutex_);
  talks_.insert(talk);
  ++threads_;
}

void Host::leave(Talk& talk) {
  std::lock_guard lock(mutex_);
  const void* carrier = &talk;
  if (talk.session && talk.session->stream.compare_exchange_strong(carrier, nullptr)) {
    talk.session->detached_at = Clock::now();
  }
  talks_.erase(talk.shared_from_this());
}

void Host::tick() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kTick, [this] { return over_; })) {
    const auto now = Clock::now();
    for (auto at = sessions_.begin(); at != sessions_.end();) {
      const auto& session = at->second;
      const bool expired = session->stream == nullptr &&
                           seconds(now - session->detached_at) > session->lease_seconds;
      at = expired ? sessions_.erase(at) : std::next(at);
    }
    const auto talks = talks_;
    lock.unlock();
    for (const auto& talk : talks) talk->tick(now);
    lock.lock();
  }
}

void Host::drain(double grace_seconds) {
  draining_ = true;
  v1::SimReply notice;
  notice.mutable_draining()->set_grace_seconds(grace_seconds);
  std::unique_lock lock(mutex_);
  const auto talks = talks_;
  lock.unlock();
  for (const auto& talk : talks) talk->notify(notice);
  const auto until = Clock::now() + std::chrono::duration<double>(grace_seconds);
  for (const auto& talk : talks) {
    while (talk->working() && Clock::now() < until) std::this_thread::sleep_for(kTick);
    talk->end(grpc::Status::OK);
  }
}

}  // namespace farsim
