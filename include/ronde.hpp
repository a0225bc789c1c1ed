// Ronde for C++17 and later: RAII and types over ronde.h, header only.
//
//   #include <ronde.hpp>
//   #include <iostream>
//   #include <vector>
//
//   int main() {
//       auto group = ronde::group::join();
//       std::vector<float> x(1 << 20, 1.0f);
//       group.all_reduce(x, ronde::avg);
//       std::cout << group.rank() << " of " << group.size() << ": " << x[0] << '\n';
//       group.close();
//   }
//
// Errors are exceptions: ronde::error carries the status and the full text. Rules for threads and memory are
// those of ronde.h, and so is how a job grows and shrinks (group::update). A container is anything with data() and
// size() whose elements have a dtype below; lengths follow from it and are checked where two must fit.
#ifndef RONDE_HPP
#define RONDE_HPP

#include "ronde.h"

#include <algorithm>
#include <chrono>
#include <complex>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace ronde {

// What a call failed with.
class error : public std::runtime_error {
public:
    error(ronde_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
    ronde_status status() const noexcept { return status_; }

private:
    ronde_status status_;
};

namespace detail {

inline void check(ronde_status status) {
    if (status != RONDE_OK) throw error(status, ronde_last_error());
}

inline void require(bool condition, const char *text) {
    if (!condition) throw error(RONDE_INVALID_ARGUMENT, text);
}

} // namespace detail

// The dtype of a C++ type. Specialise it for types of your own, such as a 16-bit float, with a member
// `static constexpr ronde_dtype value`.
template <class T, class = void>
struct dtype_of;

namespace detail {
template <class T>
constexpr ronde_dtype integer_dtype() {
    static_assert(sizeof(T) <= 8, "no dtype for this integer");
    constexpr bool s = std::is_signed_v<T>;
    switch (sizeof(T)) {
    case 1: return s ? RONDE_I8 : RONDE_U8;
    case 2: return s ? RONDE_I16 : RONDE_U16;
    case 4: return s ? RONDE_I32 : RONDE_U32;
    default: return s ? RONDE_I64 : RONDE_U64;
    }
}
} // namespace detail

template <class T>
struct dtype_of<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool>>> {
    static constexpr ronde_dtype value = detail::integer_dtype<T>();
};
template <> struct dtype_of<bool> { static constexpr ronde_dtype value = RONDE_BOOL; };
template <> struct dtype_of<float> { static constexpr ronde_dtype value = RONDE_F32; };
template <> struct dtype_of<double> { static constexpr ronde_dtype value = RONDE_F64; };
template <> struct dtype_of<std::complex<float>> { static constexpr ronde_dtype value = RONDE_C64; };
template <> struct dtype_of<std::complex<double>> { static constexpr ronde_dtype value = RONDE_C128; };

namespace detail {
template <class Container>
using element = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<Container &>()))>>;
template <class Container>
constexpr ronde_dtype dtype = dtype_of<element<Container>>::value;

template <class I, class O>
constexpr void same_elements() {
    static_assert(std::is_same_v<element<const I>, element<O>>, "the element types differ");
}
} // namespace detail

// How to reduce: a constant, or an object that owns what ronde_reduction_create made.
class reduction {
public:
    constexpr explicit reduction(ronde_reduction builtin) noexcept : number_(builtin), owned_(false) {}

    // The average of all inputs, each weighed by its rank's weight.
    static reduction weighted_avg(double weight) {
        reduction made;
        detail::check(ronde_reduction_weighted_avg(weight, &made.number_));
        made.owned_ = true;
        return made;
    }

    // The sum of all inputs, each multiplied by its rank's scalar.
    template <class T>
    static reduction premulsum(const T &scalar) {
        reduction made;
        detail::check(ronde_reduction_premulsum(dtype_of<T>::value, &scalar, &made.number_));
        made.owned_ = true;
        return made;
    }

    // A function (const T *src, T *acc, std::size_t count) noexcept; see ronde_combine. It must outlive every op
    // that uses it, as must this object.
    template <class T, class Combine>
    static reduction of(Combine &combine) {
        static_assert(std::is_nothrow_invocable_v<Combine &, const T *, T *, std::size_t>,
                      "combine(const T *, T *, std::size_t) must be noexcept");
        reduction made;
        auto call = [](const void *src, void *acc, std::size_t count, ronde_dtype, void *context) noexcept {
            (*static_cast<Combine *>(context))(static_cast<const T *>(src), static_cast<T *>(acc), count);
        };
        detail::check(ronde_reduction_create(call, &combine, &made.number_));
        made.owned_ = true;
        return made;
    }

    reduction(reduction &&other) noexcept
        : number_(other.number_), owned_(std::exchange(other.owned_, false)) {}
    reduction &operator=(reduction &&other) noexcept {
        std::swap(number_, other.number_);
        std::swap(owned_, other.owned_);
        return *this;
    }
    reduction(const reduction &) = delete;
    reduction &operator=(const reduction &) = delete;
    ~reduction() {
        if (owned_) ronde_reduction_free(number_);
    }

    ronde_reduction number() const noexcept { return number_; }

private:
    reduction() noexcept : number_(0), owned_(false) {}
    ronde_reduction number_;
    bool owned_;
};

inline const reduction sum{RONDE_SUM}, prod{RONDE_PROD}, min{RONDE_MIN}, max{RONDE_MAX}, avg{RONDE_AVG},
    band{RONDE_BAND}, bor{RONDE_BOR}, bxor{RONDE_BXOR};

// What a call does when a peer is lost; see the constants of these names.
enum class tolerance { recover = RONDE_RECOVER, none = RONDE_NONE, per_window = RONDE_PER_WINDOW };

// Options of one call.
struct options {
    std::chrono::milliseconds timeout{0}; // 0: the group's
    std::uint32_t tag = 0;
    ronde::tolerance tolerance = ronde::tolerance::recover;
    std::string algorithm; // empty: chosen
    bool strict_commit = false; // a result that anybody returned holds for all
};

namespace detail {
struct c_options {
    explicit c_options(const options &from) {
        value.timeout_ms = static_cast<std::int64_t>(from.timeout.count());
        value.tag = from.tag;
        value.tolerance = static_cast<std::int32_t>(from.tolerance);
        value.algorithm = from.algorithm.empty() ? nullptr : from.algorithm.c_str();
        value.strict_commit = from.strict_commit ? 1 : 0;
    }
    const ronde_options *get() const noexcept { return &value; }
    ronde_options value = RONDE_OPTIONS_INIT;
};
} // namespace detail

// A part of a vector with contributors of its own.
struct part {
    std::size_t first = 0, count = 0; // elements
    std::uint32_t contributors = 0;
    std::vector<int> absent; // ranks whose input is not in these, ascending
};

// What a call that succeeded says of itself; see ronde_outcome.
struct outcome {
    std::uint64_t epoch = 0, seq = 0, bytes_sent = 0, bytes_received = 0;
    const char *algorithm = ""; // its name, for ever valid
    std::uint32_t contributors = 0, interruptions = 0, generation = 0;
    std::chrono::nanoseconds interrupted{0};
    std::vector<int> absent; // ranks whose input is not in the result, ascending
    std::vector<ronde_hole> holes; // bytes of this rank's output that the absent leave open
    std::vector<part> parts; // where they differ along the vector (RONDE_PER_WINDOW)
    std::uint64_t stable_through = 0; // calls of the tag below this one have returned everywhere
    double weight = 0;                // of a weighted average: the sum of the weights in the result; else NaN
    std::chrono::nanoseconds detected{0}; // from its start until this peer heard of a loss; see ronde.h
};

namespace detail {
inline std::vector<int> copied(const std::int32_t *ranks, std::size_t count) {
    return count == 0 ? std::vector<int>() : std::vector<int>(ranks, ranks + count);
}

// An entry of a list whose entries may be longer than this program knows.
template <class T> const T &entry(const T *list, std::size_t size, std::size_t i) {
    return *reinterpret_cast<const T *>(reinterpret_cast<const unsigned char *>(list) + i * size);
}

inline outcome from_c(const ronde_outcome &of) {
    std::vector<ronde_hole> holes;
    for (std::size_t i = 0; i < of.hole_count; i++) holes.push_back(entry(of.holes, of.hole_size, i));
    std::vector<part> parts;
    for (std::size_t i = 0; i < of.part_count; i++) {
        const ronde_part &from = entry(of.parts, of.part_size, i);
        parts.push_back({from.first, from.count, from.contributors, copied(from.absent, from.absent_count)});
    }
    using ns = std::chrono::nanoseconds;
    return {of.epoch, of.seq, of.bytes_sent, of.bytes_received, of.algorithm, of.contributors, of.interruptions,
            of.generation, ns(of.interrupted_ns), copied(of.absent, of.absent_count), std::move(holes), std::move(parts),
            of.stable_through, of.weight, ns(of.detected_ns)};
}
} // namespace detail

// What a safe point changed.
struct change {
    bool changed = false; // ranks are new from now on
    std::uint32_t generation = 0;
    int rank = 0, size = 0;
    std::vector<int> joined; // ranks of the newcomers: the highest ones
    std::vector<int> gone;   // ranks, as they were, of those who are not there any more
};

// An op in flight. Its buffers must outlive it; destroying the object does not wait.
class op {
public:
    explicit op(ronde_op *handle) noexcept : handle_(handle) {}
    // Takes a receive back of which nothing has come yet; false if it goes on.
    bool cancel() noexcept { return ronde_op_cancel(handle_.get()) == RONDE_OK; }

    // True once the op has ended; throws its error.
    bool test() {
        ronde_status status = ronde_op_test(handle_.get(), nullptr);
        if (status == RONDE_IN_PROGRESS) return false;
        detail::check(status);
        return true;
    }

    // The same after at most so long; it goes on, and may be waited for again.
    bool wait_for(std::chrono::milliseconds patience) {
        ronde_status status = ronde_op_wait_for(handle_.get(), patience.count(), nullptr);
        if (status == RONDE_IN_PROGRESS) return false;
        detail::check(status);
        return true;
    }

    outcome wait() {
        ronde_outcome result = RONDE_OUTCOME_INIT;
        detail::check(ronde_op_wait(handle_.get(), &result));
        return detail::from_c(result);
    }

    // Readable once the op has ended; closed with this object.
    int descriptor() const {
        int number = -1;
        detail::check(ronde_op_descriptor(handle_.get(), &number));
        return number;
    }

    // Calls `f(const error *, const outcome *)` when the op ends, on any thread; one of the two is null. An exception that
    // leaves `f` ends the process.
    template <class F>
    void on_complete(F f) && {
        static_assert(std::is_invocable_v<F &, const error *, const outcome *>);
        auto kept = std::make_unique<F>(std::move(f));
        // Frames of the library lie between here and the next handler: nothing unwinds through them.
        auto call = [](void *context, ronde_status status, const ronde_outcome *result, const char *text) noexcept {
            std::unique_ptr<F> f(static_cast<F *>(context));
            if (status == RONDE_OK) {
                const outcome ended = detail::from_c(*result);
                (*f)(nullptr, &ended);
            } else {
                const error problem(status, text);
                (*f)(&problem, nullptr);
            }
        };
        detail::check(ronde_op_on_complete(handle_.get(), call, kept.get()));
        kept.release();
        handle_.release();
    }

private:
    struct free {
        void operator()(ronde_op *handle) const noexcept { ronde_op_free(handle); }
    };
    std::unique_ptr<ronde_op, free> handle_;
};

// A key-value store that all processes reach; see ronde_store. Both functions may be called from any thread while `join`
// runs, and report failures by throwing: what the exception says becomes part of that of `join`.
struct store {
    std::function<void(const std::string &key, const std::string &value)> set;
    // Waits until the key is set, at most so long; then gives nothing.
    std::function<std::optional<std::string>(const std::string &key, std::chrono::milliseconds timeout)> get;
};

// For which network: how long a peer may be silent before it is lost.
enum class preset { lan = 1, wan = 2 };

// How to join; what is left alone comes from the environment. See ronde_config.
struct config {
    std::optional<std::string> coordinator, token, job, advertise, transports, interfaces;
    std::optional<ronde_id> id;
    std::optional<ronde::store> store;
    std::optional<int> rank, ranks, min_peers, max_peers;
    std::optional<ronde::preset> preset;
    std::chrono::milliseconds timeout{0}, connect_timeout{0};
    int streams = 0;
    std::uint16_t first_port = 0, last_port = 0; // ports to listen on, the first free one; without a last only the first
    bool insecure = false, shrink_only = false, newcomer = false;
};

namespace detail {
// A store as C calls it. Exceptions stop here, and are told by `problem`.
class c_store {
public:
    explicit c_store(const std::optional<store> &from) : functions_(from.value_or(store{})) {
        const bool whole = functions_.set && functions_.get;
        value_ = {sizeof value_, this, whole ? set : nullptr, whole ? get : nullptr};
    }
    c_store(const c_store &) = delete;
    c_store &operator=(const c_store &) = delete;
    const ronde_store *address() const noexcept { return &value_; }

    // What the last function that failed said, after a colon.
    std::string problem() const {
        const std::lock_guard<std::mutex> hold(mutex_);
        return problem_.empty() ? "" : ": " + problem_;
    }

private:
    static int set(void *context, const char *key, const void *value, std::size_t bytes) noexcept {
        return static_cast<c_store *>(context)->attempt([&](const store &functions) {
            functions.set(key, std::string(static_cast<const char *>(value), bytes));
            return true;
        });
    }
    static int get(void *context, const char *key, void *value, std::size_t *bytes, std::int64_t timeout_ms) noexcept {
        return static_cast<c_store *>(context)->attempt([&](const store &functions) {
            const auto got = functions.get(key, std::chrono::milliseconds(timeout_ms));
            if (!got || got->size() > *bytes) return false;
            std::memcpy(value, got->data(), got->size());
            *bytes = got->size();
            return true;
        });
    }

    template <class F>
    int attempt(F f) noexcept {
        try {
            return f(functions_) ? 0 : 1;
        } catch (const std::exception &exception) {
            remember(exception.what());
        } catch (...) {
            remember("an exception that is no std::exception");
        }
        return 1;
    }
    void remember(const char *text) noexcept {
        try {
            const std::lock_guard<std::mutex> hold(mutex_);
            problem_ = text;
        } catch (...) {
            // No memory for a text: the status alone tells of the failure.
        }
    }

    const store functions_;
    ronde_store value_;
    mutable std::mutex mutex_;
    mutable std::string problem_;
};

struct c_config {
    explicit c_config(const config &from) : store(from.store) {
        auto text = [](const std::optional<std::string> &s) { return s ? s->c_str() : nullptr; };
        value.coordinator = text(from.coordinator);
        value.token = text(from.token);
        value.job = text(from.job);
        value.advertise = text(from.advertise);
        value.transports = text(from.transports);
        value.interfaces = text(from.interfaces);
        value.id = from.id ? &*from.id : nullptr;
        value.store = from.store ? store.address() : nullptr;
        value.rank = from.rank.value_or(-1);
        value.ranks = from.ranks.value_or(0);
        value.min_peers = from.min_peers.value_or(0);
        value.max_peers = from.max_peers.value_or(0);
        value.timeout_ms = static_cast<std::int64_t>(from.timeout.count());
        value.connect_timeout_ms = static_cast<std::int64_t>(from.connect_timeout.count());
        value.streams = from.streams;
        value.first_port = from.first_port;
        value.last_port = from.last_port;
        value.preset = from.preset ? static_cast<std::int32_t>(*from.preset) : 0;
        value.insecure = from.insecure ? 1 : 0;
        value.shrink_only = from.shrink_only ? 1 : 0;
        value.newcomer = from.newcomer ? 1 : 0;
    }
    const ronde_config *get() const noexcept { return &value; }
    void check(ronde_status status) const {
        if (status != RONDE_OK) throw error(status, ronde_last_error() + store.problem());
    }
    ronde_config value = RONDE_CONFIG_INIT;
    c_store store;
};
} // namespace detail

// Starts the coordinator of one job here and gives its id.
inline ronde_id create_id(const config &with = {}) {
    ronde_id id;
    const detail::c_config config(with);
    config.check(ronde_id_create(config.get(), &id));
    return id;
}

// Blocks of a vector, one per rank, in elements; without offsets they follow each other.
struct blocks {
    std::vector<std::size_t> counts, offsets;

    const std::size_t *offsets_or_null() const noexcept { return offsets.empty() ? nullptr : offsets.data(); }
    // Elements up to the end of the last block.
    std::size_t extent() const noexcept {
        std::size_t end = 0, next = 0;
        for (std::size_t i = 0; i < counts.size(); ++i) {
            next = (i < offsets.size() ? offsets[i] : next) + counts[i];
            end = next > end ? next : end;
        }
        return end;
    }
};

// Calls that start at once and become final together, with the same contributors and one outcome; see ronde.h. All
// buffers must stay until it was committed, or the op of its seal has ended. One that is destroyed before either, by an
// exception for example, is sealed and waited for: buffers that were made before it may go after it.
class commit_group {
public:
    explicit commit_group(ronde_commit *handle) noexcept : handle_(handle) {}

    // In place.
    template <class C>
    void all_reduce(C &data, const reduction &how = sum, const options &with = {}) {
        all_reduce(data, data, how, with);
    }
    template <class I, class O, class = detail::element<O>>
    void all_reduce(const I &send, O &recv, const reduction &how = sum, const options &with = {}) {
        detail::same_elements<I, O>();
        detail::require(std::size(send) == std::size(recv), "all_reduce: the lengths differ");
        const detail::c_options options(with);
        ronde_call call = RONDE_CALL_INIT;
        call.collective = RONDE_ALL_REDUCE, call.dtype = detail::dtype<O>, call.reduction = how.number();
        call.count = std::size(send), call.send = std::data(send), call.recv = std::data(recv);
        call.options = options.get();
        start(call);
    }

    // Any call that a commit takes, as data; its tag is the commit's.
    void start(const ronde_call &call) { detail::check(ronde_commit_start(handle_.get(), &call)); }

    // The last call was made: the op ends when everything is final.
    [[nodiscard]] op seal() && {
        ronde_op *sealed = nullptr;
        detail::check(ronde_commit_seal(handle_.release(), &sealed));
        return op(sealed);
    }

    // Seals, and waits for the end.
    outcome commit() && {
        ronde_outcome result = RONDE_OUTCOME_INIT;
        detail::check(ronde_commit_wait(handle_.release(), &result));
        return detail::from_c(result);
    }

private:
    struct end {
        void operator()(ronde_commit *handle) const noexcept { ronde_commit_wait(handle, nullptr); }
    };
    std::unique_ptr<ronde_commit, end> handle_;
};

// A group of peers. Closed when destroyed, unless an exception is under way: then its loss is what the others
// should see.
class group {
public:
    static group join(const config &with = {}) {
        ronde_group *handle = nullptr;
        const detail::c_config config(with);
        config.check(ronde_join(config.get(), &handle));
        return group(handle);
    }

    group(group &&) noexcept = default;
    group &operator=(group &&other) noexcept {
        leave();
        handle_ = std::move(other.handle_);
        return *this;
    }
    ~group() { leave(); }

    int rank() const noexcept { return ronde_rank(handle_.get()); }
    int size() const noexcept { return ronde_size(handle_.get()); }
    std::string transport(int rank) const { return ronde_transport(handle_.get(), rank); }
    std::string recent_calls() const {
        std::string text(ronde_recent_calls(handle_.get(), nullptr, 0) + 4096, '\0');
        text.resize(std::min(ronde_recent_calls(handle_.get(), &text[0], text.size()), text.size() - 1));
        return text;
    }
    std::string host(int rank) const { return ronde_host(handle_.get(), rank); }
    ronde_group *handle() const noexcept { return handle_.get(); }

    // Leaves in order; every later call throws RONDE_CLOSED.
    void close() { detail::check(ronde_close(handle_.get())); }
    void abort(const std::string &reason) { detail::check(ronde_abort(handle_.get(), reason.c_str())); }

    // The part of this member's colour; none for a negative colour.
    std::optional<group> split(int color, int key = 0) {
        ronde_group *part = nullptr;
        detail::check(ronde_split(handle_.get(), color, key, &part));
        if (part == nullptr) return std::nullopt;
        return group(part);
    }

    // A safe point, which every member of the job calls at the same place; see ronde_update.
    [[nodiscard]] change update() {
        ronde_change c = RONDE_CHANGE_INIT;
        detail::check(ronde_update(handle_.get(), &c));
        change result{c.changed != 0, c.generation, c.rank, c.ranks, {}, {}};
        for (int rank = c.ranks - c.joined; rank < c.ranks; ++rank) result.joined.push_back(rank);
        result.gone = detail::copied(c.gone_ranks, static_cast<std::size_t>(c.gone));
        return result;
    }
    // Whether all who are there say yes, and who is not there; see ronde_agree.
    std::pair<bool, outcome> agree(bool flag) {
        std::int32_t all = 0;
        ronde_outcome o = RONDE_OUTCOME_INIT;
        detail::check(ronde_agree(handle_.get(), flag, &all, &o));
        return {all != 0, detail::from_c(o)};
    }
    // Gives everybody the state of those who have it; see ronde_share. T is trivially copyable.
    template <class T>
    outcome share(T *state, std::size_t count, bool has_it) {
        static_assert(std::is_trivially_copyable_v<T>);
        ronde_outcome o = RONDE_OUTCOME_INIT;
        detail::check(ronde_share(handle_.get(), state, count * sizeof(T), has_it, &o));
        return detail::from_c(o);
    }
    // 0 at the start of the job; a process that joined later starts with more, and needs the state of the others.
    std::uint32_t generation() const noexcept { return ronde_generation(handle_.get()); }

    // Zeroed memory that local peers read without a copy. It may outlive this object.
    template <class T>
    std::unique_ptr<T[], std::function<void(T *)>> allocate(std::size_t count) {
        static_assert(std::is_trivially_copyable_v<T>);
        detail::require(count <= SIZE_MAX / sizeof(T), "count overflows");
        void *memory = nullptr;
        detail::check(ronde_mem_alloc(handle_.get(), count * sizeof(T), &memory));
        auto free = [group = handle_](T *pointer) { ronde_mem_free(group.get(), pointer); };
        return {static_cast<T *>(memory), free};
    }

    // In place.
    template <class C>
    outcome all_reduce(C &data, const reduction &how = sum, const options &with = {}) {
        return all_reduce(data, data, how, with);
    }
    // Only what has elements is an output, and no reduction is taken for one.
    template <class I, class O, class = detail::element<O>>
    outcome all_reduce(const I &send, O &recv, const reduction &how = sum, const options &with = {}) {
        detail::same_elements<I, O>();
        detail::require(std::size(send) == std::size(recv), "all_reduce: the lengths differ");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_all_reduce(g, std::data(send), std::data(recv), std::size(send), detail::dtype<O>,
                                    how.number(), o, r);
        });
    }
    template <class I, class O>
    [[nodiscard]] op all_reduce_start(const I &send, O &recv, const reduction &how = sum,
                                      const options &with = {}) {
        detail::same_elements<I, O>();
        detail::require(std::size(send) == std::size(recv), "all_reduce: the lengths differ");
        ronde_op *started = nullptr;
        detail::check(ronde_all_reduce_start(handle_.get(), std::data(send), std::data(recv), std::size(send),
                                             detail::dtype<O>, how.number(), detail::c_options(with).get(),
                                             &started));
        return op(started);
    }

    // recv matters at the root only.
    template <class I, class O>
    outcome reduce(const I &send, O &recv, const reduction &how, int root, const options &with = {}) {
        detail::same_elements<I, O>();
        at_root(root, std::size(recv) >= std::size(send), "reduce: the root's output is too short");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_reduce(g, std::data(send), std::data(recv), std::size(send), detail::dtype<O>,
                                how.number(), root, o, r);
        });
    }

    template <class I, class O>
    outcome reduce_scatter(const I &send, O &recv, const reduction &how = sum, const options &with = {}) {
        detail::same_elements<I, O>();
        whole(std::size(send), std::size(recv), "reduce_scatter: send needs size() blocks as long as recv");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_reduce_scatter(g, std::data(send), std::data(recv), std::size(recv), detail::dtype<O>,
                                        how.number(), o, r);
        });
    }
    template <class I, class O>
    outcome reduce_scatter_v(const I &send, const blocks &of, O &recv, const reduction &how = sum,
                             const options &with = {}) {
        detail::same_elements<I, O>();
        one_each(of, std::size(send), "reduce_scatter_v");
        detail::require(std::size(recv) >= of.counts[self()], "reduce_scatter_v: recv is too short");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_reduce_scatter_v(g, std::data(send), of.counts.data(), of.offsets_or_null(),
                                          std::data(recv), detail::dtype<O>, how.number(), o, r);
        });
    }

    template <class I, class O>
    outcome all_gather(const I &send, O &recv, const options &with = {}) {
        detail::same_elements<I, O>();
        whole(std::size(recv), std::size(send), "all_gather: recv needs size() blocks as long as send");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_all_gather(g, std::data(send), std::data(recv), std::size(send), detail::dtype<O>, o, r);
        });
    }
    template <class I, class O>
    outcome all_gather_v(const I &send, O &recv, const blocks &of, const options &with = {}) {
        detail::same_elements<I, O>();
        one_each(of, std::size(recv), "all_gather_v");
        detail::require(std::size(send) >= of.counts[self()], "all_gather_v: send is too short");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_all_gather_v(g, std::data(send), std::data(recv), of.counts.data(),
                                      of.offsets_or_null(), detail::dtype<O>, o, r);
        });
    }

    template <class I, class O>
    outcome all_to_all(const I &send, O &recv, const options &with = {}) {
        detail::same_elements<I, O>();
        std::size_t block = std::size(send) / ranks();
        whole(std::size(send), block, "all_to_all: the length is no multiple of size()");
        detail::require(std::size(recv) == std::size(send), "all_to_all: the lengths differ");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_all_to_all(g, std::data(send), std::data(recv), block, detail::dtype<O>, o, r);
        });
    }
    template <class I, class O>
    outcome all_to_all_v(const I &send, const blocks &sent, O &recv, const blocks &received,
                         const options &with = {}) {
        detail::same_elements<I, O>();
        one_each(sent, std::size(send), "all_to_all_v");
        one_each(received, std::size(recv), "all_to_all_v");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_all_to_all_v(g, std::data(send), sent.counts.data(), sent.offsets_or_null(),
                                      std::data(recv), received.counts.data(), received.offsets_or_null(),
                                      detail::dtype<O>, o, r);
        });
    }

    template <class C>
    outcome broadcast(C &data, int root, const options &with = {}) {
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_broadcast(g, std::data(data), std::size(data), detail::dtype<C>, root, o, r);
        });
    }

    // recv matters at the root only.
    template <class I, class O>
    outcome gather(const I &send, O &recv, int root, const options &with = {}) {
        detail::same_elements<I, O>();
        at_root(root, std::size(recv) / ranks() >= std::size(send), "gather: the root's output is too short");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_gather(g, std::data(send), std::data(recv), std::size(send), detail::dtype<O>, root,
                                o, r);
        });
    }

    // recv and its blocks matter at the root only.
    template <class I, class O>
    outcome gather_v(const I &send, O &recv, const blocks &of, int root, const options &with = {}) {
        detail::same_elements<I, O>();
        if (rank() == root) one_each(of, std::size(recv), "gather_v");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_gather_v(g, std::data(send), std::size(send), std::data(recv), of.counts.data(),
                                  of.offsets_or_null(), detail::dtype<O>, root, o, r);
        });
    }

    // send matters at the root only.
    template <class I, class O>
    outcome scatter(const I &send, O &recv, int root, const options &with = {}) {
        detail::same_elements<I, O>();
        at_root(root, std::size(send) / ranks() >= std::size(recv), "scatter: the root's input is too short");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_scatter(g, std::data(send), std::data(recv), std::size(recv), detail::dtype<O>, root,
                                 o, r);
        });
    }

    // send and its blocks matter at the root only.
    template <class I, class O>
    outcome scatter_v(const I &send, const blocks &of, O &recv, int root, const options &with = {}) {
        detail::same_elements<I, O>();
        if (rank() == root) one_each(of, std::size(send), "scatter_v");
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_scatter_v(g, std::data(send), of.counts.data(), of.offsets_or_null(), std::data(recv),
                                   std::size(recv), detail::dtype<O>, root, o, r);
        });
    }

    outcome barrier(const options &with = {}) {
        return call(with, [&](auto g, auto o, auto r) { return ronde_barrier(g, o, r); });
    }

    template <class C>
    outcome send(const C &data, int to, const options &with = {}) {
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_send(g, std::data(data), std::size(data), detail::dtype<C>, to, o, r);
        });
    }
    template <class C>
    outcome recv(C &data, int from, const options &with = {}) {
        return call(with, [&](auto g, auto o, auto r) {
            return ronde_recv(g, std::data(data), std::size(data), detail::dtype<C>, from, o, r);
        });
    }

    // Opens a commit group of this tag and timeout. Its calls in place may overwrite so many bytes; 0: 4 GiB.
    [[nodiscard]] commit_group begin_commit(const options &with = {}, std::size_t most_kept = 0) {
        ronde_commit *begun = nullptr;
        detail::check(ronde_commit_begin(handle_.get(), detail::c_options(with).get(), most_kept, &begun));
        return commit_group(begun);
    }

    // Any call as data; see ronde_call.
    [[nodiscard]] op start(const ronde_call &call) {
        ronde_op *started = nullptr;
        detail::check(ronde_start(handle_.get(), &call, &started));
        return op(started);
    }
    std::vector<outcome> run(const std::vector<ronde_call> &calls) {
        std::vector<ronde_outcome> ended(calls.size(), RONDE_OUTCOME_INIT);
        detail::check(ronde_run(handle_.get(), calls.data(), calls.size(), ended.data()));
        std::vector<outcome> outcomes(ended.size());
        std::transform(ended.begin(), ended.end(), outcomes.begin(), detail::from_c);
        return outcomes;
    }

private:
    explicit group(ronde_group *handle)
        : handle_(handle, ronde_group_free), exceptions_(std::uncaught_exceptions()) {}

    template <class F>
    outcome call(const options &with, F f) {
        ronde_outcome result = RONDE_OUTCOME_INIT;
        detail::check(f(handle_.get(), detail::c_options(with).get(), &result));
        return detail::from_c(result);
    }

    void leave() noexcept {
        if (handle_ && std::uncaught_exceptions() <= exceptions_) ronde_close(handle_.get());
        handle_.reset();
    }

    std::size_t ranks() const noexcept { return static_cast<std::size_t>(size()); }
    std::size_t self() const noexcept { return static_cast<std::size_t>(rank()); }

    void whole(std::size_t all, std::size_t block, const char *text) const {
        detail::require(block * ranks() == all && (block == 0 || all / block == ranks()), text);
    }
    void at_root(int root, bool fits, const char *text) const { detail::require(rank() != root || fits, text); }
    void one_each(const blocks &of, std::size_t length, const char *what) const {
        detail::require(of.counts.size() == ranks() && (of.offsets.empty() || of.offsets.size() == ranks()),
                        (std::string(what) + ": blocks need one entry for each rank").c_str());
        detail::require(of.extent() <= length, (std::string(what) + ": the blocks reach past the end").c_str());
    }

    // Shared with the memory that it allocated.
    std::shared_ptr<ronde_group> handle_;
    int exceptions_ = 0;
};

} // namespace ronde

#endif // RONDE_HPP
