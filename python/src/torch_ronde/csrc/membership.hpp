// Who is in a process group: joined once, or again and again by reconfigure.
#pragma once

#include "common.hpp"

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <variant>
#include <vector>

namespace torch_ronde {

class Membership {
public:
    using Group = std::shared_ptr<ronde_group>;

    explicit Membership(ronde_group *group) : group_(owned(group)) {}

    // The group as it is now. A call keeps it while it begins; ops keep what they need themselves.
    Group group() const {
        std::lock_guard<std::mutex> lock(mutex_);
        if (group_) return group_;
        C10_THROW_ERROR(DistBackendError, "Ronde: this process group has no members yet, or its last reconfigure failed: call reconfigure first");
    }

    bool is_there() const {
        std::lock_guard<std::mutex> lock(mutex_);
        return group_ != nullptr;
    }

#ifdef C10D_BACKEND_HAS_RECONFIGURE
    // What the others need to meet here, should this process come first among them. It holds for one reconfigure.
    std::string handle() const {
        std::lock_guard<std::mutex> lock(mutex_);
        if (own_.empty()) {
            ronde_id id;
            check(ronde_id_create(nullptr, &id));
            // Sets are in the order of ranks before, then come those who had none.
            char before[16];
            std::snprintf(before, sizeof before, "%010d|", group_ ? ronde_rank(group_.get()) : 2147483647);
            own_ = before + std::string(reinterpret_cast<const char *>(id.bytes), strnlen(reinterpret_cast<const char *>(id.bytes), sizeof id.bytes));
        }
        return own_;
    }

    // Leaves the group there is, and makes one of these members.
    Group reconfigure(const c10d::ReconfigureOptions &opts, std::chrono::milliseconds call_timeout) {
        std::lock_guard<std::mutex> one_at_a_time(reconfiguring_);
        std::vector<std::string> handles;
        if (const auto *ordered = std::get_if<std::vector<std::string>>(&opts.handles)) {
            handles = *ordered;
        } else {
            const auto &any = std::get<0>(opts.handles);
            handles.assign(any.begin(), any.end());
            std::sort(handles.begin(), handles.end());
        }
        TORCH_CHECK_VALUE(!used_.count(opts.uuid), "Ronde: the uuid ", opts.uuid, " was already used: give a new one to each reconfigure");
        std::string own;
        Group before;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            const auto at = std::find(handles.begin(), handles.end(), own_);
            TORCH_CHECK_VALUE(!own_.empty() && at != handles.end(),
                              "Ronde: this process is not among the handles: each reconfigure needs a handle of its own, from get_reconfigure_handle");
            own.swap(own_), before.swap(group_);
        }
        used_.insert(opts.uuid);
        // Who still waits for something of it hears that it ends.
        before.reset();
        const auto rank = std::find(handles.begin(), handles.end(), own) - handles.begin();
        ronde_id here = id_of(own), meeting = id_of(handles.front());
        if (rank != 0) (void)ronde_id_free(&here);
        ronde_config config = RONDE_CONFIG_INIT;
        config.id = &meeting, config.rank = static_cast<int32_t>(rank), config.ranks = static_cast<int32_t>(handles.size());
        config.timeout_ms = call_timeout.count(), config.connect_timeout_ms = opts.timeout.value_or(call_timeout).count();
        ronde_group *joined = nullptr;
        const ronde_status status = ronde_join(&config, &joined);
        if (status != RONDE_OK) {
            const std::exception_ptr error = error_of(status);
            (void)ronde_id_free(&here);
            std::rethrow_exception(error);
        }
        std::lock_guard<std::mutex> lock(mutex_);
        return group_ = owned(joined);
    }
#endif

    ~Membership() {
        if (own_.empty()) return;
        ronde_id here = id_of(own_);
        (void)ronde_id_free(&here);
    }
    Membership(const Membership &) = delete;
    Membership &operator=(const Membership &) = delete;

private:
    static Group owned(ronde_group *group) { return group == nullptr ? nullptr : Group(group, ronde_group_free); }

    static ronde_id id_of(const std::string &handle) {
        ronde_id id;
        const size_t begin = handle.find('|');
        const std::string text = begin == std::string::npos ? "" : handle.substr(begin + 1);
        TORCH_CHECK_VALUE(!text.empty() && text.size() <= sizeof id.bytes, "Ronde: this is no handle of get_reconfigure_handle: \"", handle.substr(0, 20), "…\"");
        std::memset(&id, 0, sizeof id);
        std::memcpy(id.bytes, text.data(), text.size());
        return id;
    }

    mutable std::mutex mutex_;
    std::mutex reconfiguring_;
    Group group_;
    // The handle that was given out last and not used yet.
    mutable std::string own_;
    std::set<int64_t> used_;
};

} // namespace torch_ronde
