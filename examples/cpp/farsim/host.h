// All sessions of this process, and who carries which.
#pragma once

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <set>
#include <thread>

#include "farsim/session.h"

namespace farsim {

// Carries one session's messages. Methods may be called from any thread and do not wait.
class Wire {
 public:
  virtual ~Wire() = default;
  virtual void send(const std::string& reply) = 0;
  virtual void read() = 0;                           // Brings the next request to `Talk::ask`.
  virtual void end(const grpc::Status& status) = 0;  // After what has been sent.
};

class Host;

// The server's side of one stream: `open` or `resume`, then requests, one at a time, in a thread of
// its own, so that a simulator that takes its time holds up nobody else.
class Talk : public std::enable_shared_from_this<Talk> {
 public:
  Talk(Host& host, Wire& wire) : host_(host), wire_(&wire) {}
  void begin();                   // Once, after construction.
  void ask(std::string request);  // A request has come.
  void gone();                    // The stream is over; its Wire is not touched from here on.
  void end(const grpc::Status& status);
  void notify(const v1::SimReply& notice);
  void tick(Clock::time_point now);  // Heartbeats, and streams that open nothing.
  bool working() const { return working_; }

  bool patient = false;              // Whether it may wait for `open` for ever; set before `begin`.
  std::shared_ptr<Session> session;  // Set by this talk's thread, under the host's lock.

 private:
  void run();

  Host& host_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Wire* wire_;
  std::string request_;  // Empty: none waits.
  std::atomic<bool> working_{false};
  Clock::time_point last_word_ = Clock::now();
};

class Host {
 public:
  Host(const Model& model, const Limits& limits);
  ~Host();  // Waits for the requests that are being carried out.

  v1::DescribeReply describe() const;
  const Limits& limits() const { return limits_; }

  // Tells clients, finishes what is being carried out within `grace_seconds`, ends the streams.
  void drain(double grace_seconds);

 private:
  friend class Talk;

  std::string first(Talk& talk, const v1::SimRequest& request, const std::string& raw);
  void close(const std::shared_ptr<Session>& session);
  void enter(const std::shared_ptr<Talk>& talk);
  void leave(Talk& talk);
  void tick();

  const Model model_;
  const Limits limits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Session>> sessions_;  // By token.
  std::set<std::shared_ptr<Talk>> talks_;
  size_t reserved_ = 0;  // Environments of sessions that are about to be made.
  size_t reserved_sessions_ = 0;
  size_t threads_ = 0;
  bool over_ = false;
  std::atomic<bool> draining_{false};
  std::thread ticker_;
};

}  // namespace farsim
