// A gRPC stream in C++, with nothing behind it: what a step costs if only its messages are moved.
//
//   grpc_echo serve ANSWER_BYTES
//   grpc_echo play HOST:PORT ENVS REQUEST_BYTES ANSWER_BYTES
//
// Says and hears what `farsim.bench.turns` does. Messages are bytes, as in `plain_grpc.py`.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

grpc::ByteBuffer Message(size_t bytes) {
  const std::string text(bytes, '\0');
  grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

class Echo final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Echo(size_t bytes) : answer_(Message(bytes)) { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWrite(&answer_);
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer request_, answer_;
};

class Service final : public grpc::CallbackGenericService {
 public:
  explicit Service(size_t bytes) : bytes_(bytes) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Echo(bytes_);
  }

 private:
  size_t bytes_;
};

int Serve(size_t bytes) {
  Service service(bytes);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&service);
  auto server = builder.BuildAndStart();
  std::cout << "{\"address\": \"127.0.0.1:" << port << "\"}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
  }
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

class Stream {
 public:
  explicit Stream(const std::string& address)
      : stub_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        call_(stub_.PrepareCall(&context_, "/Plain/Stream", &queue_)) {
    call_->StartCall(nullptr);
    Wait();
  }
  void Step(const grpc::ByteBuffer& request) {
    call_->Read(&answer_, nullptr);
    call_->Write(request, nullptr);
    Wait();
    Wait();
  }

 private:
  void Wait() {
    void* tag;
    bool ok = false;
    if (!queue_.Next(&tag, &ok) || !ok) {
      std::cerr << "the stream has ended" << std::endl;
      std::exit(1);
    }
  }
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  grpc::ByteBuffer answer_;
};

int Play(const std::string& address, long envs, size_t request_bytes, size_t answer_bytes) {
  Stream stream(address);
  const grpc::ByteBuffer request = Message(request_bytes);
  stream.Step(request);
  std::cout << "{\"ready\": true}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const double seconds = std::stod(line);
    std::vector<double> waits;
    const auto cpu = std::clock();
    const auto begun = Clock::now();
    do {
      const auto sent = Clock::now();
      stream.Step(request);
      waits.push_back(Since(sent));
    } while (Since(begun) < seconds);
    const double taken = Since(begun);
    std::sort(waits.begin(), waits.end());
    std::printf(
        "{\"steps\": %ld, \"payload\": %ld, \"seconds\": %.9f, \"cpu\": %.6f, \"p50\": %.9f, "
        "\"p99\": %.9f}\n",
        long(waits.size()) * envs, long(waits.size() * (request_bytes + answer_bytes)), taken,
        double(std::clock() - cpu) / CLOCKS_PER_SEC, waits[waits.size() / 2],
        waits[waits.size() * 99 / 100]);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> given(arguments + 1, arguments + count);
  if (given.size() == 2 && given[0] == "serve") return Serve(std::stoul(given[1]));
  if (given.size() == 5 && given[0] == "play")
    return Play(given[1], std::stol(given[2]), std::stoul(given[3]), std::stoul(given[4]));
  std::cerr << "grpc_echo serve ANSWER_BYTES | play HOST:PORT ENVS REQUEST_BYTES ANSWER_BYTES\n";
  return 2;
}
