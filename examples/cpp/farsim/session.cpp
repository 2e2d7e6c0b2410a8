#include "farsim/session.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace farsim {
namespace {

using Seconds = std::chrono::duration<double>;

uint64_t entropy() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

std::string new_token() {
  static const char digits[] = "0123456789abcdef";
  std::string token;
  std::random_device device;
  for (int i = 0; i < 8; ++i) {
    uint32_t bits = device();
    for (int j = 0; j < 8; ++j, bits >>= 4) token += digits[bits & 15];
  }
  return token;
}

// Sets the parameters that `options` names: settings[i] is of row i. Only per-episode ones unless
// `opening`.
void choose(const Model& model, const v1::Options& options, bool opening,
            std::vector<Settings*> settings) {
  for (bool dry : {true, false}) {  // Everything is checked before anything is changed.
    for (const auto& [name, value] : options.values()) {
      const auto found = std::find_if(model.parameters.begin(), model.parameters.end(),
                                      [&name = name](const auto& p) { return p.name == name; });
      if (found == model.parameters.end()) {
        std::string known;
        for (const auto& parameter : model.parameters) known += " " + parameter.name;
        throw Refusal(v1::ERROR_CODE_UNKNOWN_OPTION, "no option '" + name + "'; there are:" + known,
                      name);
      }
      if (!opening && !found->per_episode) {
        throw Refusal(v1::ERROR_CODE_INVALID_OPTION,
                      "'" + name + "' is fixed for a session: give it when opening one", name);
      }
      const bool single = value.tensors_size() == 1 && value.tensors(0).shape_size() == 1 &&
                          value.tensors(0).shape(0) == 1;
      const size_t rows = single ? 1 : settings.size();
      if (value.tensors_size() != 1) {
        throw Refusal(v1::ERROR_CODE_INVALID_OPTION, "'" + name + "' is one tensor", name);
      }
      const Leaf leaf = leaves(number(found->low, found->high))[0];
      check(leaf, value.tensors(0), rows, v1::ERROR_CODE_INVALID_OPTION, name);
      for (size_t row = 0; row < settings.size(); ++row) {
        const char* bytes = value.tensors(0).data().data() + (single ? 0 : row * leaf.bytes());
        if (!inside(leaf, bytes)) {
          throw Refusal(v1::ERROR_CODE_INVALID_OPTION,
                        "'" + name + "' must be from " + std::to_string(found->low) + " to " +
                            std::to_string(found->high) + " " + found->unit,
                        name);
        }
        if (!dry) std::memcpy(&(*settings[row])[name], bytes, leaf.bytes());
      }
    }
  }
}

v1::Group group_of(const Model& model) {
  v1::Group group;
  group.set_name("agents");
  group.add_agents("agent");
  *group.mutable_observation_space() = model.observation_space;
  *group.mutable_action_space() = model.action_space;
  return group;
}

void check_rows(const std::vector<uint32_t>& rows, size_t count, const std::string& subject) {
  const auto unordered = std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>());
  if (unordered != rows.end() || (!rows.empty() && rows.back() >= count)) {
    throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT,
                  subject + " must be strictly increasing and below " + std::to_string(count),
                  subject);
  }
}

// Refuses parameters out of a saved state that this session's can not be.
void check_settings(const Model& model, const Settings& opened, const Settings& saved) {
  for (const Parameter& parameter : model.parameters) {
    const double value = saved.at(parameter.name);
    const bool fits = parameter.per_episode ? parameter.low <= value && value <= parameter.high
                                            : value == opened.at(parameter.name);
    if (!fits) {
      throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT,
                    "no state of a session with this value of '" + parameter.name + "'", "states");
    }
  }
}

v1::Value one_number(double value) {
  v1::Value message;
  *message.add_tensors() = pack<double>({1}, &value, 1);
  return message;
}

std::vector<std::string> columns(const std::vector<Leaf>& leaves, size_t rows) {
  std::vector<std::string> made;
  for (const Leaf& leaf : leaves) made.emplace_back(rows * leaf.bytes(), '\0');
  return made;
}

}  // namespace

v1::SimReply error_reply(uint64_t sequence, const Refusal& refusal) {
  v1::SimReply reply;
  reply.set_sequence(sequence);
  reply.mutable_error()->set_code(refusal.code);
  reply.mutable_error()->set_message(refusal.what());
  reply.mutable_error()->set_subject(refusal.subject);
  return reply;
}

void check_version(const std::string& version) {
  if (version.substr(0, version.find('.')) != "1") {
    throw Refusal(v1::ERROR_CODE_PROTOCOL_VERSION,
                  "this server speaks version 1.0 of farsim.v1, the client '" + version + "'",
                  "protocol_version");
  }
}

v1::SimulatorDescription describe(const Model& model) {
  v1::SimulatorDescription said;
  said.set_name(model.name);
  said.set_description(model.description);
  *said.add_groups() = group_of(model);
  for (const Parameter& parameter : model.parameters) {
    auto* message = said.add_parameters();
    message->set_name(parameter.name);
    message->set_description(parameter.description);
    message->set_unit(parameter.unit);
    *message->mutable_space() = number(parameter.low, parameter.high);
    *message->mutable_default_() = one_number(parameter.value);
    message->set_per_episode(parameter.per_episode);
  }
  said.set_max_episode_steps(model.max_episode_steps);
  for (auto mode :
       {v1::AUTORESET_MODE_NEXT_STEP, v1::AUTORESET_MODE_SAME_STEP, v1::AUTORESET_MODE_DISABLED}) {
    said.add_autoreset_modes(mode);
  }
  said.set_can_save_state(model.can_save_state);
  return said;
}

struct Session::Changes {
  // One for each environment named; none but in the reply to `step`.
  std::vector<double> reward;
  std::vector<uint8_t> terminated, truncated;
  std::vector<uint32_t> started;
  std::vector<uint32_t> final_rows;  // With SAME_STEP.
  std::vector<std::string> finals;   // Their last observations, for each leaf.
  std::vector<std::pair<uint32_t, std::string>> faults;
};

Session::Session(const Model& model, const v1::Open& open, const Limits& limits,
                 const std::atomic<bool>& draining)
    : token(new_token()), model_(model), limits_(limits), draining_(draining) {
  const auto or_default = [](double asked, double otherwise) {
    return asked > 0 ? asked : otherwise;
  };
  lease_seconds = std::min(or_default(open.lease_seconds(), 1e9), limits.lease_seconds);
  heartbeat_seconds =
      std::min(or_default(open.heartbeat_seconds(), limits.heartbeat_seconds), 60.0);
  mode_ = open.autoreset_mode() ? open.autoreset_mode() : v1::AUTORESET_MODE_NEXT_STEP;
  if (mode_ > v1::AUTORESET_MODE_DISABLED) {
    throw Refusal(v1::ERROR_CODE_UNSUPPORTED, "an autoreset mode that there is not",
                  "autoreset_mode");
  }
  if (!open.render_mode().empty()) {
    throw Refusal(v1::ERROR_CODE_UNSUPPORTED, "this simulator draws no pictures", "render_mode");
  }
  for (const Parameter& parameter : model.parameters) settings_[parameter.name] = parameter.value;
  choose(model, open.options(), true, {&settings_});
  observation_leaves_ = leaves(model.observation_space);
  action_leaves_ = leaves(model.action_space);
  try {
    for (uint32_t i = 0; i < open.num_environments(); ++i) {
      places_.push_back({model.make(settings_), Random(entropy()), settings_});
    }
  } catch (const std::invalid_argument& error) {
    throw Refusal(v1::ERROR_CODE_INVALID_OPTION, error.what(), "options");
  }
  observations_ = columns(observation_leaves_, places_.size());
  actions_ = columns(action_leaves_, places_.size());
  scratch_ = columns(observation_leaves_, 1);
}

std::pair<uint64_t, Clock::time_point> Session::busy() const {
  std::lock_guard lock(busy_mutex_);
  return busy_;
}

std::string Session::answer(const void* stream, const v1::SimRequest& request,
                            const std::string& raw) {
  std::lock_guard lock(one_at_a_time_);
  if (this->stream != stream) return {};
  const uint64_t sequence = request.sequence();
  if (sequence != last_ + 1) {
    for (const Kept& kept : kept_) {
      if (kept.sequence == sequence && kept.request == raw) return kept.reply;
    }
    const std::string text = "number " + std::to_string(sequence) + " is not " +
                             std::to_string(last_ + 1) + ", and no request whose reply is kept";
    return error_reply(sequence, Refusal(v1::ERROR_CODE_SEQUENCE, text, "sequence"))
        .SerializeAsString();
  }
  const auto set_busy = [this](uint64_t number) {
    std::lock_guard busy_lock(busy_mutex_);
    busy_ = {number, Clock::now()};
  };
  set_busy(sequence);
  last_ = sequence;
  v1::SimReply reply;
  try {
    reply = carry_out(request);
    reply.set_sequence(sequence);
    if (reply.ByteSizeLong() > limits_.message_bytes) {
      if (reply.has_batch()) {
        for (uint32_t env :
             named(!reply.batch().has_environments(), reply.batch().environments())) {
          places_[env].episode = Episode::kNone;
        }
      }
      throw Refusal(v1::ERROR_CODE_LIMIT, "the reply is too large: name fewer environments");
    }
  } catch (const Refusal& refusal) {
    reply = error_reply(sequence, refusal);
  } catch (const std::exception& error) {
    reply = error_reply(sequence, Refusal(v1::ERROR_CODE_SIMULATOR, error.what()));
  }
  kept_.push_back({sequence, raw, reply.SerializeAsString()});
  if (kept_.size() > limits_.in_flight) kept_.pop_front();
  set_busy(0);
  return kept_.back().reply;
}

v1::SimReply Session::carry_out(const v1::SimRequest& request) {
  if (closed) throw Refusal(v1::ERROR_CODE_PROTOCOL, "this session is closed; open another one");
  if (draining_) throw Refusal(v1::ERROR_CODE_DRAINING, "the server is about to stop");
  v1::SimReply reply;
  const auto echo = [](const auto& about, v1::SimReply& to) {
    if (about.has_environments())
      *to.mutable_batch()->mutable_environments() = about.environments();
  };
  switch (request.request_case()) {
    case v1::SimRequest::kOpen:
      if (request.sequence() != 1) {
        throw Refusal(v1::ERROR_CODE_PROTOCOL, "this session is open already");
      }
      *reply.mutable_opened() = opened();
      break;
    case v1::SimRequest::kReset:
      *reply.mutable_batch() = reset(request.reset());
      echo(request.reset(), reply);
      break;
    case v1::SimRequest::kStep:
      *reply.mutable_batch() = step(request.step(), *reply.mutable_timing());
      echo(request.step(), reply);
      break;
    case v1::SimRequest::kRender:
      throw Refusal(v1::ERROR_CODE_UNSUPPORTED, "this simulator draws no pictures");
    case v1::SimRequest::kSaveState: *reply.mutable_states() = save(request.save_state()); break;
    case v1::SimRequest::kLoadState:
      *reply.mutable_batch() = load(request.load_state());
      echo(request.load_state(), reply);
      break;
    case v1::SimRequest::kClose:
      closed = true;
      reply.mutable_closed();
      break;
    default: throw Refusal(v1::ERROR_CODE_PROTOCOL, "no request for this point of a session");
  }
  return reply;
}

v1::Opened Session::opened() const {
  v1::Opened said;
  said.set_session_token(token);
  *said.add_groups() = group_of(model_);
  for (const auto& [name, value] : settings_) {
    (*said.mutable_options()->mutable_values())[name] = one_number(value);
  }
  said.set_autoreset_mode(mode_);
  said.set_lease_seconds(lease_seconds);
  said.set_heartbeat_seconds(heartbeat_seconds);
  said.set_max_in_flight(limits_.in_flight);
  said.set_max_episode_steps(model_.max_episode_steps);
  return said;
}

std::vector<uint32_t> Session::named(bool all, const v1::Rows& rows) const {
  std::vector<uint32_t> envs(rows.index().begin(), rows.index().end());
  if (all) {
    envs.resize(places_.size());
    std::iota(envs.begin(), envs.end(), 0);
  }
  check_rows(envs, places_.size(), "environments");
  if (envs.empty()) {
    throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT, "no environments named", "environments");
  }
  return envs;
}

v1::Batch Session::reset(const v1::Reset& request) {
  const auto envs = named(!request.has_environments(), request.environments());
  if (request.seeds_size() > 0 && static_cast<size_t>(request.seeds_size()) != envs.size()) {
    throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT,
                  "send no seeds, or one for each environment named", "seeds");
  }
  std::vector<Settings*> settings;
  for (uint32_t env : envs) settings.push_back(&places_[env].settings);
  choose(model_, request.options(), false, settings);
  for (uint32_t env : envs) places_[env].episode = Episode::kNone;
  try {
    for (size_t row = 0; row < envs.size(); ++row) {
      if (request.seeds_size() > 0) places_[envs[row]].random = Random(request.seeds(row));
      begin(envs[row]);
    }
  } catch (const std::exception&) {
    for (uint32_t env : envs) places_[env] = {nullptr, places_[env].random, places_[env].settings};
    throw;
  }
  Changes changes;
  changes.started = envs;
  return batch(envs, changes);
}

v1::Batch Session::step(const v1::Step& request, v1::Timing& timing) {
  const auto begun = Clock::now();
  const auto envs = named(!request.has_environments(), request.environments());
  for (uint32_t env : envs) {
    if (places_[env].episode == Episode::kNone) {
      throw Refusal(v1::ERROR_CODE_PROTOCOL,
                    "environment " + std::to_string(env) + " has no episode: reset it first");
    }
    if (places_[env].episode == Episode::kOver && mode_ == v1::AUTORESET_MODE_DISABLED) {
      throw Refusal(v1::ERROR_CODE_EPISODE_OVER,
                    "the episode of environment " + std::to_string(env) + " is over: reset it");
    }
  }
  read_actions(request, envs);
  const auto read = Clock::now();
  Changes changes;
  changes.reward.assign(envs.size(), 0.0);
  changes.terminated.assign(envs.size(), 0);
  changes.truncated.assign(envs.size(), 0);
  changes.finals.resize(observation_leaves_.size());
  for (size_t row = 0; row < envs.size(); ++row) advance(envs[row], row, changes);
  const auto stepped = Clock::now();
  v1::Batch message = batch(envs, changes);
  timing.set_simulator_seconds(Seconds(stepped - read).count());
  timing.set_codec_seconds(Seconds(Clock::now() - stepped + (read - begun)).count());
  return message;
}

// Puts the actions where the environments that are to act find them.
void Session::read_actions(const v1::Step& request, const std::vector<uint32_t>& envs) {
  const std::string subject = "groups[0].actions";
  if (request.groups_size() != 1) {
    throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT, "this simulator has one group", "groups");
  }
  const auto& sent = request.groups(0);
  std::vector<uint32_t> rows = envs;  // With one agent a row is an environment.
  if (sent.has_rows()) {
    rows.assign(sent.rows().index().begin(), sent.rows().index().end());
    check_rows(rows, places_.size(), "groups[0].rows");
    if (!std::includes(envs.begin(), envs.end(), rows.begin(), rows.end())) {
      throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT, "rows of environments that are not named",
                    "groups[0].rows");
    }
    for (uint32_t env : envs) {
      if (places_[env].episode == Episode::kRunning &&
          !std::binary_search(rows.begin(), rows.end(), env)) {
        throw Refusal(v1::ERROR_CODE_INVALID_ACTION,
                      "no action for environment " + std::to_string(env), subject);
      }
    }
  }
  if (static_cast<size_t>(sent.actions().tensors_size()) != action_leaves_.size()) {
    throw Refusal(v1::ERROR_CODE_INVALID_ACTION,
                  "the action space has " + std::to_string(action_leaves_.size()) + " tensors",
                  subject);
  }
  for (size_t leaf = 0; leaf < action_leaves_.size(); ++leaf) {
    const Leaf& shape = action_leaves_[leaf];
    const std::string& data = sent.actions().tensors(leaf).data();
    check(shape, sent.actions().tensors(leaf), rows.size(), v1::ERROR_CODE_INVALID_ACTION, subject);
    for (size_t row = 0; row < rows.size(); ++row) {
      const char* from = data.data() + row * shape.bytes();
      if (places_[rows[row]].episode == Episode::kRunning && !inside(shape, from)) {
        throw Refusal(v1::ERROR_CODE_INVALID_ACTION,
                      "the action for environment " + std::to_string(rows[row]) +
                          " is outside the action space",
                      subject);
      }
      std::memcpy(actions_[leaf].data() + rows[row] * shape.bytes(), from, shape.bytes());
    }
  }
}

// One environment's part of a step.
void Session::advance(uint32_t env, size_t row, Changes& changes) {
  Place& place = places_[env];
  const auto take = [&](std::vector<std::string>& to) {  // Appends the last observation's row.
    for (size_t leaf = 0; leaf < observation_leaves_.size(); ++leaf) {
      const size_t bytes = observation_leaves_[leaf].bytes();
      to[leaf].append(observations_[leaf], env * bytes, bytes);
    }
  };
  const auto fail = [&](const std::exception& error) {
    place.environment = nullptr;  // `begin` makes another one.
    place.episode = Episode::kOver;
    changes.reward[row] = 0;
    changes.terminated[row] = false;
    changes.truncated[row] = true;
    if (changes.faults.empty() || changes.faults.back().first != env) {
      changes.faults.emplace_back(env, error.what());
    }
  };
  std::vector<std::string> before(observation_leaves_.size());
  if (mode_ == v1::AUTORESET_MODE_SAME_STEP) take(before);
  const bool was_over = place.episode == Episode::kOver;
  try {
    if (was_over) {
      begin(env);
      changes.started.push_back(env);
      return;
    }
    const Outcome outcome = place.environment->step(Row(action_leaves_, actions_, env));
    observe(env);
    changes.reward[row] = outcome.reward;
    changes.terminated[row] = outcome.terminated;
    changes.truncated[row] = outcome.truncated;
    if (outcome.terminated || outcome.truncated) place.episode = Episode::kOver;
  } catch (const std::exception& error) {
    fail(error);
    if (was_over) return;
  }
  if (mode_ != v1::AUTORESET_MODE_SAME_STEP || place.episode == Episode::kRunning) return;
  std::vector<std::string> last(observation_leaves_.size());
  take(last);
  try {
    begin(env);
    changes.started.push_back(env);
    changes.final_rows.push_back(env);
    for (size_t leaf = 0; leaf < last.size(); ++leaf) changes.finals[leaf] += last[leaf];
  } catch (const std::exception& error) {
    fail(error);
    for (size_t leaf = 0; leaf < before.size(); ++leaf) {
      observations_[leaf].replace(env * before[leaf].size(), before[leaf].size(), before[leaf]);
    }
  }
}

void Session::begin(uint32_t env) {
  Place& place = places_[env];
  if (!place.environment) place.environment = model_.make(settings_);
  Settings drawn = place.settings;
  place.environment->reset(place.random, drawn);
  observe(env);
  place.drawn = std::move(drawn);
  place.episode = Episode::kRunning;
}

// Takes the observation over once all of it has been written.
void Session::observe(uint32_t env) {
  places_[env].environment->observe(Row(observation_leaves_, scratch_, 0));
  for (size_t leaf = 0; leaf < scratch_.size(); ++leaf) {
    std::memcpy(observations_[leaf].data() + env * scratch_[leaf].size(), scratch_[leaf].data(),
                scratch_[leaf].size());
  }
}

// A state is the random stream, the per-episode parameters, and what the environment saves.
v1::States Session::save(const v1::SaveState& request) const {
  if (!model_.can_save_state) throw Refusal(v1::ERROR_CODE_UNSUPPORTED, "states can not be saved");
  v1::States states;
  for (uint32_t env : named(!request.has_environments(), request.environments())) {
    const Place& place = places_[env];
    if (place.episode != Episode::kRunning) {
      throw Refusal(v1::ERROR_CODE_PROTOCOL,
                    "environment " + std::to_string(env) + " is in no episode");
    }
    std::string& state = *states.add_states();
    state.append(reinterpret_cast<const char*>(&place.random.state), sizeof(uint64_t));
    for (const auto* settings : {&place.settings, &place.drawn}) {
      for (const auto& [name, value] : *settings) {
        state.append(reinterpret_cast<const char*>(&value), sizeof(value));
      }
    }
    state += place.environment->save();
  }
  return states;
}

v1::Batch Session::load(const v1::LoadState& request) {
  if (!model_.can_save_state) throw Refusal(v1::ERROR_CODE_UNSUPPORTED, "states can not be loaded");
  const auto envs = named(!request.has_environments(), request.environments());
  const auto refuse = [](const std::string& what) {
    throw Refusal(v1::ERROR_CODE_INVALID_ARGUMENT, what, "states");
  };
  if (static_cast<size_t>(request.states_size()) != envs.size()) refuse("send a state for each");
  std::vector<Place> loaded;  // All of them, before any is put in its place.
  for (const std::string& state : request.states()) {
    Place place{model_.make(settings_), Random(0), settings_};
    place.drawn = settings_;
    const size_t head = sizeof(uint64_t) + 2 * settings_.size() * sizeof(double);
    if (state.size() < head) refuse("these bytes are no state");
    const char* from = state.data();
    std::memcpy(&place.random.state, from, sizeof(uint64_t));
    for (auto* settings : {&place.settings, &place.drawn}) {
      for (auto& [name, value] : *settings) {
        std::memcpy(&value, from += sizeof(double), sizeof(double));
      }
      check_settings(model_, settings_, *settings);
    }
    try {
      place.environment->load(state.substr(head));
    } catch (const std::invalid_argument& error) {
      refuse(error.what());
    }
    place.episode = Episode::kRunning;
    loaded.push_back(std::move(place));
  }
  for (size_t row = 0; row < envs.size(); ++row) {
    places_[envs[row]] = std::move(loaded[row]);
    observe(envs[row]);
  }
  Changes changes;
  changes.started = envs;
  return batch(envs, changes);
}

v1::Batch Session::batch(const std::vector<uint32_t>& envs, const Changes& changes) const {
  v1::Batch message;
  v1::GroupBatch& group = *message.add_groups();
  const bool all = envs.size() == places_.size();
  for (size_t leaf = 0; leaf < observation_leaves_.size(); ++leaf) {
    const Leaf& shape = observation_leaves_[leaf];
    const auto add = [&shape](v1::Value* value, size_t rows) {
      v1::Tensor* tensor = value->add_tensors();
      tensor->set_dtype(shape.dtype);
      tensor->add_shape(rows);
      tensor->mutable_shape()->Add(shape.shape.begin(), shape.shape.end());
      return tensor->mutable_data();
    };
    std::string* data = add(group.mutable_observation(), envs.size());
    if (all) *data = observations_[leaf];
    for (size_t row = 0; !all && row < envs.size(); ++row) {
      data->append(observations_[leaf], envs[row] * shape.bytes(), shape.bytes());
    }
    if (!changes.final_rows.empty()) {
      *add(group.mutable_final_observation(), changes.final_rows.size()) = changes.finals[leaf];
    }
  }
  if (!changes.reward.empty()) {
    const std::vector<int64_t> shape{static_cast<int64_t>(envs.size())};
    const auto flags = [&](const std::vector<uint8_t>& from) {
      v1::Tensor tensor = pack(shape, from.data(), from.size());
      tensor.set_dtype(v1::DTYPE_BOOL);
      return tensor;
    };
    *group.mutable_reward() = pack(shape, changes.reward.data(), envs.size());
    *group.mutable_terminated() = flags(changes.terminated);
    *group.mutable_truncated() = flags(changes.truncated);
  }
  for (uint32_t row : changes.final_rows) group.mutable_final_rows()->add_index(row);
  for (const auto& [env, what] : changes.faults) {
    v1::Fault* fault = message.add_faults();
    fault->set_environment(env);
    fault->mutable_error()->set_code(v1::ERROR_CODE_SIMULATOR);
    fault->mutable_error()->set_message(what);
  }
  for (uint32_t env : changes.started) message.mutable_started()->add_index(env);
  for (const Parameter& parameter : model_.parameters) {
    if (!parameter.per_episode || changes.started.empty()) continue;
    std::vector<double> values;
    for (uint32_t env : changes.started) values.push_back(places_[env].drawn.at(parameter.name));
    auto& option = (*message.mutable_episode_options()->mutable_values())[parameter.name];
    *option.add_tensors() =
        pack({static_cast<int64_t>(values.size())}, values.data(), values.size());
  }
  return message;
}

}  // namespace farsim
