// Ops in flight as c10d sees them.
#pragma once

#include "common.hpp"

#include <ATen/ThreadLocalState.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <dlfcn.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace torch_ronde {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// How long a wait stays in the library before it looks for signals.
constexpr milliseconds SLICE{100};

// Python, if this process runs it: nothing here is linked with it, so that one build serves every version.
class Python {
public:
    // Lets Python handle its signals. True if a handler has raised something, such as KeyboardInterrupt: that stays set for when
    // the caller is back.
    static bool was_interrupted() {
        // Python handles signals on its first thread only; others could hang here while it ends.
        if (gettid() != getpid()) return false;
        static const Python python;
        if (python.check == nullptr || python.ensure == nullptr || python.release == nullptr || python.pending == nullptr) return false;
        if (python.initialized == nullptr || python.initialized() == 0) return false;
        const int state = python.ensure();
        const bool raised = python.check() != 0;
        if (raised) python.clear(), python.pending();
        python.release(state);
        return raised;
    }

private:
    template <typename F> static void find(F &function, const char *name) {
        function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
    }
    Python() {
        find(initialized, "Py_IsInitialized"), find(ensure, "PyGILState_Ensure"), find(release, "PyGILState_Release");
        find(check, "PyErr_CheckSignals"), find(clear, "PyErr_Clear"), find(pending, "PyErr_SetInterrupt");
        if (clear == nullptr) pending = nullptr;
    }
    int (*initialized)() = nullptr;
    int (*ensure)() = nullptr;
    void (*release)(int) = nullptr;
    int (*check)() = nullptr;
    void (*clear)() = nullptr;
    // Raised again, by Python itself, as soon as its code runs.
    void (*pending)() = nullptr;
};

// A call that one or more ops make. Whoever sees their end concludes it, once: results are copied to where they belong, and who waits
// hears of it.
class RondeWork : public c10d::Work {
public:
    struct Parts {
        std::vector<ronde_op *> ops;
        // All that ops read and write, and what comes of it.
        std::vector<at::Tensor> tensors, outputs;
        // Copies results to where they belong.
        std::function<void()> conclude;
        // What counts on the thread that has made the call, such as inference mode, counts where it is concluded.
        std::optional<at::ThreadLocalState> caller;
        // Starts its op, once that can be done; waits for so long at most. The rank that it is with then, -1 else.
        std::function<int(milliseconds, ronde_op **)> find;
    };

    RondeWork(int rank, c10d::OpType type, const char *title, const std::vector<at::Tensor> &inputs, uint64_t number, milliseconds timeout)
        : Work(rank, type, title, inputs), number_(number), timeout_(timeout) {}

    ~RondeWork() override { release(); }

    void hold(Parts parts) { parts_ = std::move(parts); }

    bool isCompleted() override {
        std::unique_lock<std::mutex> lock(progress_, std::try_to_lock);
        // Another thread waits for it, and says so when it has ended.
        if (!lock) return is_done();
        advance(milliseconds(0));
        return is_done();
    }

    bool isSuccess() const override {
        std::lock_guard<std::mutex> lock(mutex_);
        return completed_ && !exception_;
    }

    std::exception_ptr exception() const override {
        std::lock_guard<std::mutex> lock(mutex_);
        return exception_;
    }

    bool wait(milliseconds timeout = kNoTimeout) override {
        const bool is_bounded = timeout > kNoTimeout;
        const auto until = is_bounded ? Clock::now() + timeout : Clock::time_point();
        while (!is_done()) {
            auto slice = SLICE;
            if (is_bounded) {
                const auto left = std::chrono::ceil<milliseconds>(until - Clock::now());
                if (left <= milliseconds(0)) {
                    C10_THROW_ERROR(DistBackendError, c10::str("Ronde: ", c10d::opTypeToString(opType_), " #", number_,
                                    " has not ended after the ", timeout.count(), " ms of this wait. It goes on"));
                }
                slice = std::min(slice, left);
            }
            {
                std::lock_guard<std::mutex> lock(progress_);
                advance(slice);
            }
            if (!is_done() && Python::was_interrupted()) {
                C10_THROW_ERROR(DistBackendError, c10::str("Ronde: the wait for ", c10d::opTypeToString(opType_), " #", number_,
                                " was interrupted. It goes on"));
            }
        }
        std::lock_guard<std::mutex> lock(mutex_);
        if (exception_) std::rethrow_exception(exception_);
        return true;
    }

    void synchronize() override { wait(); }
    std::vector<at::Tensor> result() override { return parts_.outputs; }
    int sourceRank() const override { return source_; }
    uint64_t getSequencenumber() const override { return number_; }
    milliseconds getTimeout() const override { return timeout_; }
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

    // Also if nobody waits for it.
    void conclude_in_any_case();

    bool is_done() const {
        std::lock_guard<std::mutex> lock(mutex_);
        return completed_;
    }

    void from(int source) { source_ = source; }

    // The descriptor that becomes readable when the op ends that is waited for first.
    std::vector<int> descriptors() {
        std::vector<int> all;
        std::unique_lock<std::mutex> lock(progress_, std::try_to_lock);
        // Who waits for it resolves its future.
        if (!lock) return all;
        // Those before have ended, and theirs stay readable.
        if (next_ < parts_.ops.size()) {
            int descriptor = -1;
            if (ronde_op_descriptor(parts_.ops[next_], &descriptor) == RONDE_OK) all.push_back(descriptor);
        }
        return all;
    }

private:
    // Waits for the ops, so long at most; under the lock of progress.
    void advance(milliseconds patience) {
        if (is_done()) return;
        const bool waits = patience > milliseconds(0);
        const auto until = waits ? Clock::now() + patience : Clock::time_point();
        if (parts_.find) {
            try {
                ronde_op *op = nullptr;
                const int found = parts_.find(patience, &op);
                if (found < 0 && !is_late()) return;
                if (found < 0) {
                    C10_THROW_ERROR(DistBackendError, c10::str("Ronde: the timeout of this call has passed: nobody has sent a message for a receive from anybody within ",
                                    timeout_.count(), " ms"));
                }
                source_ = found, parts_.ops.push_back(op);
            } catch (...) {
                failed_ = std::current_exception();
            }
            parts_.find = nullptr;
        }
        for (; next_ < parts_.ops.size(); next_++) {
            const auto left = waits ? std::max(milliseconds(0), std::chrono::ceil<milliseconds>(until - Clock::now())) : milliseconds(0);
            ronde_op *op = parts_.ops[next_];
            const ronde_status status = left.count() > 0 ? ronde_op_wait_for(op, left.count(), nullptr) : ronde_op_test(op, nullptr);
            if (status == RONDE_IN_PROGRESS) return;
            // The others are waited for too: what they work on belongs to them until they have ended.
            if (status != RONDE_OK && !failed_) failed_ = error_of(status);
        }
        try {
            if (!failed_ && parts_.conclude) {
                std::optional<at::ThreadLocalStateGuard> as_the_caller;
                if (parts_.caller) as_the_caller.emplace(*parts_.caller);
                parts_.conclude();
            }
        } catch (...) {
            failed_ = std::current_exception();
        }
        release();
        finish(failed_);
        resolve();
    }

    bool is_late() const { return Clock::now() >= began_ + timeout_; }

    void release() {
        parts_.find = nullptr;
        for (ronde_op *op : parts_.ops) {
            // Nobody waits for it any more; what it works on lives until it has ended.
            if (!is_done()) keep_until_its_end(op, parts_.tensors);
            else ronde_op_free(op);
        }
        parts_.ops.clear(), next_ = 0, parts_.tensors.clear(), parts_.conclude = nullptr;
    }

    static void keep_until_its_end(ronde_op *op, const std::vector<at::Tensor> &tensors) {
        if (ronde_op_test(op, nullptr) != RONDE_IN_PROGRESS) return ronde_op_free(op);
        auto *kept = new std::vector<at::Tensor>(tensors);
        auto drop = [](void *context, ronde_status, const ronde_outcome *, const char *) noexcept {
            delete static_cast<std::vector<at::Tensor> *>(context);
        };
        if (ronde_op_on_complete(op, drop, kept) != RONDE_OK) {
            // It cannot be known when it ends: its memory stays.
            ronde_op_free(op);
        }
    }

    void resolve() {
        c10::intrusive_ptr<c10::ivalue::Future> future;
        {
            std::lock_guard<std::mutex> lock(future_lock_);
            future = std::move(future_), future_.reset();
        }
        if (future) resolve(*future);
    }

    void resolve(c10::ivalue::Future &future) {
        const std::exception_ptr error = exception();
        if (error) future.setError(error);
        else future.markCompleted(c10::IValue(parts_.outputs));
    }

    const uint64_t number_;
    const milliseconds timeout_;
    const Clock::time_point began_ = Clock::now();
    std::atomic<int> source_{-1};
    // Held by whoever waits for the ops.
    std::mutex progress_;
    Parts parts_;
    size_t next_ = 0;
    std::exception_ptr failed_;
    std::mutex future_lock_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// Resolves futures, on a thread of its own: users' callbacks run there, and may take long. It also concludes works whose results are
// to be copied to where they belong, also if nobody waits for them.
class Resolver {
public:
    static Resolver &get() {
        // Never destroyed: works may outlive everything static.
        static Resolver *const resolver = new Resolver;
        return *resolver;
    }

    void add(c10::intrusive_ptr<RondeWork> work) {
        if (is_its_thread()) {
            // A callback makes a call and may wait for it, here: somebody else has to see its end.
            std::thread([work = std::move(work)] {
                try {
                    work->wait();
                } catch (...) {
                    // It is in its future.
                }
            }).detach();
            return;
        }
        std::lock_guard<std::mutex> lock(mutex_);
        // Of a process that was forked the child has no thread.
        if (!runs_ || owner_ != getpid()) {
            runs_ = true, owner_ = getpid(), works_.clear();
            wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
            std::thread([this] { run(); }).detach();
        }
        works_.push_back(std::move(work));
        const uint64_t one = 1;
        (void)!write(wake_, &one, sizeof one);
    }

private:
    static bool &is_its_thread() {
        thread_local bool its = false;
        return its;
    }

    void run() {
        is_its_thread() = true;
        std::vector<c10::intrusive_ptr<RondeWork>> mine;
        for (;;) {
            {
                std::lock_guard<std::mutex> lock(mutex_);
                mine.insert(mine.end(), works_.begin(), works_.end());
                works_.clear();
            }
            std::vector<pollfd> watched{{wake_, POLLIN, 0}};
            for (auto &work : mine)
                for (int descriptor : work->descriptors()) watched.push_back({descriptor, POLLIN, 0});
            mine.erase(std::remove_if(mine.begin(), mine.end(), [](auto &work) { return work->isCompleted(); }), mine.end());
            // Longer only if nothing is to come: who waits on another thread ends a work without a word.
            const int patience = mine.empty() ? -1 : 50;
            (void)poll(watched.data(), mine.empty() ? 1 : watched.size(), patience);
            uint64_t count = 0;
            (void)!read(wake_, &count, sizeof count);
        }
    }

    std::mutex mutex_;
    std::vector<c10::intrusive_ptr<RondeWork>> works_;
    bool runs_ = false;
    pid_t owner_ = 0;
    int wake_ = -1;
};

inline void RondeWork::conclude_in_any_case() {
    if (!is_done()) Resolver::get().add(c10::intrusive_ptr<RondeWork>::reclaim_copy(this));
}

inline c10::intrusive_ptr<c10::ivalue::Future> RondeWork::getFuture() {
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    bool is_now = isCompleted();
    if (!is_now) {
        std::lock_guard<std::mutex> lock(future_lock_);
        // It may have ended meanwhile.
        is_now = is_done();
        if (!is_now && future_) return future_;
        if (!is_now) future_ = future;
    }
    if (is_now) resolve(*future);
    else Resolver::get().add(c10::intrusive_ptr<RondeWork>::reclaim_copy(this));
    return future;
}

} // namespace torch_ronde
