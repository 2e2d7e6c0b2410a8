#include "farsim/flags.h"

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>

namespace farsim {

Flags::Flags(int argc, char** argv, std::map<std::string, std::string> defaults, const char* usage)
    : values_(std::move(defaults)) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto known = values_.find(flag.rfind("--", 0) == 0 ? flag.substr(2) : "");
    if (known == values_.end() ||
        (known->second != "no" && known->second != "yes" && i + 1 == argc)) {
      std::cerr << (flag == "--help" ? "" : "error: " + flag + "\n") << usage;
      std::exit(flag == "--help" ? 0 : 2);
    }
    const bool is_switch = known->second == "no" || known->second == "yes";
    known->second = is_switch ? "yes" : argv[++i];
  }
}

double Flags::number(const std::string& name) const {
  const std::string& text = values_.at(name);
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end) {
    std::cerr << "error: --" << name << " takes a number, not '" << text << "'\n";
    std::exit(2);
  }
  return value;
}

std::string read_file(const std::string& path) {
  if (path.empty()) return {};
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << "error: " << path << " can not be read\n";
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string read_token(const std::string& path) {
  std::string token = read_file(path);
  const char* space = " \t\r\n";
  token.erase(token.find_last_not_of(space) + 1).erase(0, token.find_first_not_of(space));
  if (!path.empty() && token.empty()) {
    std::cerr << "error: the token file " << path << " is empty\n";
    std::exit(2);
  }
  return token;
}

std::shared_ptr<grpc::ChannelCredentials> client_credentials(const Flags& flags) {
  if (flags["tls-ca"].empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials(
      {read_file(flags["tls-ca"]), read_file(flags["tls-key"]), read_file(flags["tls-cert"])});
}

grpc::ChannelArguments channel_arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);  // Notices a head that has vanished.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return arguments;
}

}  // namespace farsim
