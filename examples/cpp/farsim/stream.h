// What carries one session's messages: a call of `Run` served here, or a seat at a gateway.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "farsim/host.h"

namespace farsim {

grpc::ByteBuffer to_buffer(const std::string& bytes);
std::string to_string(const grpc::ByteBuffer& buffer);

// gRPC allows one write and one read at a time, and nothing after the end. This queues what is
// sent, reads the next request only once the replies before have gone out, and ends the stream
// after what has been sent.
//
// `Reactor` is grpc::ServerBidiReactor or grpc::ClientBidiReactor of ByteBuffers.
template <class Reactor>
class Stream : public Reactor, public Wire {
 public:
  explicit Stream(Host& host) : talk_(std::make_shared<Talk>(host, *this)) {}

  void send(const std::string& reply) override { put(wrap(reply)); }

  void read() override {
    std::lock_guard lock(mutex_);
    wants_request_ = true;
    next();
  }

  void end(const grpc::Status& status) override {
    std::lock_guard lock(mutex_);
    if (ending_) return;
    ending_ = status;
    next();
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    outbox_.pop_front();
    if (!ok) {  // The other side has gone.
      outbox_.clear();
      if (!ending_) ending_ = grpc::Status::OK;
    }
    if (!outbox_.empty()) this->StartWrite(&outbox_.front());
    next();
  }

  void OnReadDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      reading_ = false;
    }
    if (!ok) return end(grpc::Status::OK);  // No further requests.
    std::string request = unwrap(to_string(inbox_));
    if (!request.empty()) talk_->ask(std::move(request));
  }

 protected:
  void put(const std::string& message) {
    std::lock_guard lock(mutex_);
    if (ending_) return;
    outbox_.push_back(to_buffer(message));
    if (outbox_.size() == 1) this->StartWrite(&outbox_.front());
  }

  virtual void finish(const grpc::Status& status) = 0;  // Under `mutex_`, once.
  virtual std::string wrap(const std::string& reply) { return reply; }
  // The request in a message; empty if it holds none.
  virtual std::string unwrap(std::string message) { return message; }

  const std::shared_ptr<Talk> talk_;
  std::mutex mutex_;
  std::optional<grpc::Status> ending_;
  grpc::ByteBuffer inbox_;
  bool reading_ = false;

 private:
  void next() {
    if (!outbox_.empty()) return;
    if (ending_ && !finished_) {
      finished_ = true;
      finish(*ending_);
    } else if (!ending_ && wants_request_) {
      wants_request_ = false;
      reading_ = true;
      this->StartRead(&inbox_);
    }
  }

  std::deque<grpc::ByteBuffer> outbox_;
  bool wants_request_ = false, finished_ = false;
};

}  // namespace farsim
