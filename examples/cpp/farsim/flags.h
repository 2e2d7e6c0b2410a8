// The command line: --name value, and --name alone.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>

namespace farsim {

class Flags {
 public:
  // Known flags with their defaults; a default of "no" makes a flag without a value. Prints `usage`
  // and exits where the command line is wrong or asks for help.
  Flags(int argc, char** argv, std::map<std::string, std::string> defaults, const char* usage);
  const std::string& operator[](const std::string& name) const { return values_.at(name); }
  double number(const std::string& name) const;
  bool on(const std::string& name) const { return values_.at(name) == "yes"; }

 private:
  std::map<std::string, std::string> values_;
};

std::string read_file(const std::string& path);   // Exits with a message if it cannot be read.
std::string read_token(const std::string& path);  // Without white space around it.

// For a client: TLS if there is --tls-ca, with --tls-cert and --tls-key for mutual TLS.
std::shared_ptr<grpc::ChannelCredentials> client_credentials(const Flags& flags);
grpc::ChannelArguments channel_arguments();

}  // namespace farsim
