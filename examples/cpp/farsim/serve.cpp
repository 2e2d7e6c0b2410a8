#include "farsim/serve.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <signal.h>

#include <iostream>

#include "farsim/flags.h"
#include "farsim/stream.h"
#include "farsim/v1/simulator.grpc.pb.h"

namespace farsim {
namespace {

constexpr char kUsage[] =
    "Serves a simulator by farsim.v1.Simulator, or dials in to a head.\n"
    "  --listen HOST:PORT       127.0.0.1:50051; port 0 takes a free one\n"
    "  --tls-cert, --tls-key    PEM files; needed beyond this machine, or --insecure\n"
    "  --tls-client-ca FILE     clients must show a certificate of this authority\n"
    "  --token-file FILE        clients must send this token\n"
    "  --max-sessions 64 --max-environments 4096 --max-message-bytes 67108864\n"
    "  --lease-seconds 60       how long a session outlives a broken stream, at most\n"
    "  --grace-seconds 10       how long requests may take to finish on SIGTERM\n"
    "  --attach HOST:PORT       dial in to this head instead of listening\n"
    "  --seats 1                with --attach: how many sessions at the same time\n"
    "  --name NAME              with --attach: for people and logs\n"
    "  --tls-ca FILE            with --attach: of the head (--tls-cert, --tls-key: this side's)\n";

class Doorkeeper {
 public:
  explicit Doorkeeper(const std::string& token)
      : expected_(token.empty() ? "" : "Bearer " + token) {}

  grpc::Status check(const grpc::CallbackServerContext& context) const {
    if (expected_.empty()) return grpc::Status::OK;
    const auto sent = context.client_metadata().find("authorization");
    if (sent != context.client_metadata().end() && same(sent->second)) return grpc::Status::OK;
    return {grpc::StatusCode::UNAUTHENTICATED, "the bearer token is missing or wrong"};
  }

 private:
  // In a time that does not tell how much of it was right.
  bool same(grpc::string_ref sent) const {
    unsigned char difference = sent.size() != expected_.size();
    for (size_t i = 0; i < sent.size(); ++i)
      difference |= sent.data()[i] ^ expected_[i % expected_.size()];
    return difference == 0;
  }

  const std::string expected_;
};

using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

class Call final : public Stream<Reactor> {
 public:
  Call(Host& host, const grpc::Status& entry) : Stream(host) {
    if (entry.ok()) {
      talk_->begin();
    } else {
      end(entry);
    }
  }

  void OnCancel() override { end(grpc::Status::CANCELLED); }

  void OnDone() override {
    talk_->gone();
    delete this;
  }

 private:
  void finish(const grpc::Status& status) override { Finish(status); }
};

// `Run` goes without gRPC's own (de)serialisers: a session needs the very bytes of a request to
// tell a repeated one, and keeps its replies serialised.
class Service final : public v1::Simulator::WithRawCallbackMethod_Run<
                          v1::Simulator::WithCallbackMethod_Describe<v1::Simulator::Service>> {
 public:
  Service(Host& host, const std::string& token) : host_(host), doorkeeper_(token) {}

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::DescribeReply* reply) override {
    grpc::Status status = doorkeeper_.check(*context);
    try {
      if (!request->protocol_version().empty()) check_version(request->protocol_version());
      if (status.ok()) *reply = host_.describe();
    } catch (const Refusal& refusal) {
      if (status.ok()) status = {grpc::StatusCode::FAILED_PRECONDITION, refusal.what()};
    }
    auto* reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  Reactor* Run(grpc::CallbackServerContext* context) override {
    return new Call(host_, doorkeeper_.check(*context));
  }

 private:
  Host& host_;
  const Doorkeeper doorkeeper_;
};

bool is_loopback(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  return host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

std::shared_ptr<grpc::ServerCredentials> server_credentials(const Flags& flags) {
  if (flags["tls-cert"].empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      flags["tls-client-ca"].empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                     : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = read_file(flags["tls-client-ca"]);
  options.pem_key_cert_pairs.push_back({read_file(flags["tls-key"]), read_file(flags["tls-cert"])});
  return grpc::SslServerCredentials(options);
}

int listen(Host& host, const Flags& flags, const sigset_t& stop) {
  const std::string& address = flags["listen"];
  if (flags["tls-cert"].empty() && !flags.on("insecure") && !is_loopback(address)) {
    std::cerr << "error: " << address << " can be reached from other machines: give --tls-cert and "
              << "--tls-key, or --insecure if the network itself is protected\n";
    return 2;
  }
  const std::string token = read_token(flags["token-file"]);
  grpc::EnableDefaultHealthCheckService(true);
  // Reflection has no place for a token, so it is left out where one is asked for.
  if (token.empty()) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  Service service(host, token);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, server_credentials(flags), &port);
  builder.RegisterService(&service);
  const int most = static_cast<int>(host.limits().message_bytes);
  builder.SetMaxReceiveMessageSize(most);
  builder.SetMaxSendMessageSize(most + 65536);  // For a reply's frame; `Session` keeps the bound.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server || port == 0) {
    std::cerr << "error: can not listen on " << address << "\n";
    return 2;
  }
  server->GetHealthCheckService()->SetServingStatus(v1::Simulator::service_full_name(), true);
  std::cout << "serving at " << address.substr(0, address.rfind(':')) << ":" << port << std::endl;
  int signal = 0;
  sigwait(&stop, &signal);
  server->GetHealthCheckService()->SetServingStatus(false);
  host.drain(flags.number("grace-seconds"));
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  return 0;
}

}  // namespace

int serve(const Model& model, int argc, char** argv) {
  const Flags flags(argc, argv,
                    {{"listen", "127.0.0.1:50051"},
                     {"tls-cert", ""},
                     {"tls-key", ""},
                     {"tls-client-ca", ""},
                     {"token-file", ""},
                     {"insecure", "no"},
                     {"max-sessions", "64"},
                     {"max-environments", "4096"},
                     {"max-message-bytes", "67108864"},
                     {"lease-seconds", "60"},
                     {"grace-seconds", "10"},
                     {"attach", ""},
                     {"seats", "1"},
                     {"name", ""},
                     {"tls-ca", ""}},
                    kUsage);
  // Before any thread is made, so that all of them leave these signals to sigwait.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);
  const bool dials = !flags["attach"].empty();
  Limits limits;
  limits.sessions = static_cast<uint32_t>(flags.number(dials ? "seats" : "max-sessions"));
  limits.environments = static_cast<uint32_t>(flags.number("max-environments"));
  limits.message_bytes = static_cast<uint64_t>(flags.number("max-message-bytes"));
  limits.lease_seconds = flags.number("lease-seconds");
  Host host(model, limits);
  return dials ? attach(host, flags, static_cast<int>(limits.sessions), stop)
               : listen(host, flags, stop);
}

}  // namespace farsim
