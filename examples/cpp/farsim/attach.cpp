// Dialling in: farsim.v1.SimulatorGateway, whose streams carry what `Run` carries.
#include <grpcpp/generic/generic_stub.h>
#include <signal.h>
#include <unistd.h>

#include <iostream>
#include <random>

#include "farsim/flags.h"
#include "farsim/serve.h"
#include "farsim/stream.h"
#include "farsim/v1/gateway.pb.h"

namespace farsim {
namespace {

constexpr char kMethod[] = "/farsim.v1.SimulatorGateway/Attach";
constexpr double kLongestPause = 30;  // s

class Seat;

// Keeps one seat waiting while fewer than `seats` are taken.
class Dialler {
 public:
  Dialler(Host& host, const Flags& flags, int seats)
      : host_(host),
        token_(read_token(flags["token-file"])),
        seats_(seats),
        stub_(grpc::CreateCustomChannel(flags["attach"], client_credentials(flags),
                                        channel_arguments())) {
    std::random_device device;
    v1::AttachHello& hello = *hello_.mutable_hello();
    for (int i = 0; i < 4; ++i) hello.mutable_server_id()->append(std::to_string(device()));
    *hello.mutable_description() = host.describe();
    hello.set_seats(seats);
    hello.set_name(flags["name"]);
    thread_ = std::thread([this] { dial(); });
  }

  // After Host::drain, which has closed this side of every seat.
  ~Dialler();

  void welcomed(const std::string& gateway) {
    std::lock_guard lock(mutex_);
    if (pause_ != 0 || !said_) std::cout << "attached to " << gateway << std::endl;
    said_ = true;
    pause_ = 0;
  }

  void opened(Seat* seat) {
    std::lock_guard lock(mutex_);
    open_.insert(seat);
  }

  void taken() {
    std::lock_guard lock(mutex_);
    --waiting_;
    ++taken_;
    changed_.notify_all();
  }

  void ended(Seat* seat, bool was_taken, const grpc::Status& status) {
    std::lock_guard lock(mutex_);
    --(was_taken ? taken_ : waiting_);
    open_.erase(seat);
    if (!status.ok() || !was_taken) pause_ = std::min(std::max(1.0, 2 * pause_), kLongestPause);
    if (!status.ok() && !over_) {
      std::cerr << "the head ended a seat: " << status.error_message() << " (status "
                << status.error_code() << "); dialling again in about " << pause_ << " s\n";
    }
    changed_.notify_all();
  }

 private:
  void dial();

  Host& host_;
  const std::string token_;
  const int seats_;
  grpc::GenericStub stub_;
  v1::FromSimulator hello_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<Seat*> open_;
  int waiting_ = 0, taken_ = 0;
  double pause_ = 0;  // Before the next call, s.
  bool over_ = false, said_ = false;
  std::thread thread_;
};

class Seat final : public Stream<grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  Seat(Host& host, Dialler& dialler, grpc::GenericStub& stub, const std::string& token,
       const v1::FromSimulator& hello)
      : Stream(host), dialler_(dialler) {
    talk_->patient = true;
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    stub.PrepareBidiStreamingCall(&context_, kMethod, {}, this);
    AddHold();  // Until `finish`: writes and reads begin in other threads than gRPC's.
    put(hello.SerializeAsString());
    talk_->begin();
    dialler_.opened(this);
    StartCall();
  }

  void cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      if (finished_) {
        // What still comes is thrown away: the status comes after it.
        if (ok) StartRead(&inbox_);
        return;
      }
    }
    Stream::OnReadDone(ok);
  }

  void OnDone(const grpc::Status& status) override {
    talk_->gone();
    dialler_.ended(this, taken_, status);
    delete this;
  }

 private:
  // The server's end of `Run` is here the dialler closing its side.
  void finish(const grpc::Status&) override {
    finished_ = true;
    StartWritesDone();
    if (!reading_) StartRead(&inbox_);
    RemoveHold();
  }

  // The bytes of a FromSimulator whose `reply` has these bytes.
  std::string wrap(const std::string& reply) override {
    std::string message(1, (v1::FromSimulator::kReplyFieldNumber << 3) | 2);
    for (size_t length = reply.size();; length >>= 7) {
      message += static_cast<char>((length & 127) | (length > 127 ? 128 : 0));
      if (length < 128) break;
    }
    return message + reply;
  }

  std::string unwrap(std::string message) override {
    v1::ToSimulator received;
    if (!received.ParseFromString(message)) {
      end(grpc::Status::OK);
      return {};
    }
    if (!received.has_request()) {
      if (received.has_welcome()) dialler_.welcomed(received.welcome().gateway());
      read();
      return {};
    }
    if (!taken_) dialler_.taken();
    taken_ = true;
    return received.request().SerializeAsString();
  }

  Dialler& dialler_;
  grpc::ClientContext context_;
  bool taken_ = false, finished_ = false;
};

void Dialler::dial() {
  std::mt19937 random{std::random_device{}()};
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return over_ || (waiting_ == 0 && taken_ < seats_); });
    const double pause = pause_ * std::uniform_real_distribution<>(0.75, 1.25)(random);
    if (changed_.wait_for(lock, std::chrono::duration<double>(pause), [this] { return over_; }))
      return;
    ++waiting_;
    lock.unlock();
    new Seat(host_, *this, stub_, token_, hello_);  // It deletes itself.
    lock.lock();
  }
}

Dialler::~Dialler() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  thread_.join();
  std::unique_lock lock(mutex_);
  const auto none = [this] { return waiting_ + taken_ == 0; };
  if (changed_.wait_for(lock, std::chrono::seconds(2), none)) return;
  for (Seat* seat : open_) seat->cancel();  // The head did not end its side.
  changed_.wait(lock, none);
}

}  // namespace

int attach(Host& host, const Flags& flags, int seats, const sigset_t& stop) {
  if (seats < 1) {
    std::cerr << "error: --seats is at least 1\n";
    return 2;
  }
  Dialler dialler(host, flags, seats);
  int signal = 0;
  sigwait(&stop, &signal);
  host.drain(flags.number("grace-seconds"));
  return 0;
}

}  // namespace farsim
