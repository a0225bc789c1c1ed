// ronde.hpp: every member once or more, with values, and its checks of lengths.
//
// usage: wrapper | wrapper grow | wrapper config | wrapper unwinding      (the last three not under a launcher; the last
// ends with 7)
#include <array>
#include <atomic>
#include <arpa/inet.h>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <map>
#include <mutex>
#include <poll.h>
#include <ronde.hpp>
#include <string_view>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            std::cerr << __FILE__ << ':' << __LINE__ << ": not so: " #condition "\n"; \
            std::exit(1);                                                            \
        }                                                                            \
    } while (0)

// A 16-bit float of the program's own.
struct bfloat16 {
    std::uint16_t bits;
};
template <>
struct ronde::dtype_of<bfloat16> {
    static constexpr ronde_dtype value = RONDE_BF16;
};

template <class F>
void throws(ronde_status status, std::string_view words, F f) {
    try {
        f();
    } catch (const ronde::error &error) {
        if (error.status() == status && std::string_view(error.what()).find(words) != std::string_view::npos) return;
        std::cerr << "wrong error: " << error.status() << ": " << error.what() << ", not \"" << words << "\"\n";
        std::exit(1);
    }
    std::cerr << "no error: " << words << '\n';
    std::exit(1);
}

// One member of a job that another joins and leaves: every step has the sum of all ranks, and a newcomer gets the
// number of steps that there were.
void member(const ronde_id &id, bool is_newcomer) {
    ronde::config config;
    config.id = id;
    config.newcomer = is_newcomer;
    if (!is_newcomer) config.min_peers = 1;
    auto group = ronde::group::join(config);
    CHECK(group.rank() == is_newcomer && group.size() == 1 + is_newcomer && group.generation() == is_newcomer);
    std::thread newcomer;
    std::vector<int> steps(1, is_newcomer ? -1 : 0);
    const auto start = std::chrono::steady_clock::now();
    for (bool share = is_newcomer, grown = is_newcomer;;) {
        if (share) group.broadcast(steps, 0);
        CHECK(steps[0] >= is_newcomer);
        std::vector<int> x(1000, group.rank() + 1);
        const auto outcome = group.all_reduce(x);
        ++steps[0];
        const bool both = group.size() == 2 && outcome.absent.empty();
        CHECK(x == std::vector<int>(1000, both ? 3 : 1) && outcome.contributors == 1u + both);
        CHECK(both || group.size() == 1 || outcome.absent == std::vector<int>{1});
        std::vector<int> all(static_cast<std::size_t>(group.size()), -7);
        const auto gathered = group.all_gather(std::vector<int>(1, group.rank()), all);
        const bool lacks_one = !gathered.absent.empty();
        CHECK(all[0] == 0 && gathered.holes.size() == lacks_one && (lacks_one || all.back() == group.size() - 1));
        CHECK(!lacks_one || (gathered.holes[0].first == sizeof(int) && gathered.holes[0].bytes == sizeof(int)));
        if (is_newcomer) break;
        if (!newcomer.joinable()) newcomer = std::thread(member, id, true);
        const ronde::change change = group.update();
        CHECK(change.changed == (change.joined.size() + change.gone.size() > 0) && change.rank == 0);
        CHECK(change.size == group.size() && change.generation == group.generation());
        share = change.joined == std::vector<int>{1};
        CHECK(share || change.joined.empty());
        grown = grown || share;
        if (change.gone == std::vector<int>{1}) {
            CHECK(grown && group.size() == 1 && group.generation() == 2);
            break;
        }
        CHECK(change.gone.empty() && std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
    }
    group.close();
    if (newcomer.joinable()) newcomer.join();
}

// Every field of ronde_config can be said, and what is not said is left to the library.
void fields() {
    const ronde_config left = RONDE_CONFIG_INIT;
    const ronde_config none = *ronde::detail::c_config({}).get();
    CHECK(std::memcmp(&left, &none, sizeof left) == 0);

    ronde::config config;
    config.coordinator = "a:1", config.token = "b", config.advertise = "c", config.transports = "d", config.interfaces = "e";
    config.id = ronde_id{{7}};
    config.store = ronde::store{[](auto &&...) {}, [](auto &&...) { return std::nullopt; }};
    config.timeout = std::chrono::seconds(1), config.connect_timeout = std::chrono::seconds(2);
    config.rank = 3, config.ranks = 4, config.preset = ronde::preset::lan, config.insecure = true, config.streams = 5;
    config.first_port = 6, config.last_port = 7, config.min_peers = 8, config.max_peers = 9;
    config.shrink_only = true, config.newcomer = true, config.job = "f";
    const ronde::detail::c_config all(config);
    const ronde_config &c = *all.get();
    CHECK(c.size == sizeof c && std::string_view(c.coordinator) == "a:1" && std::string_view(c.token) == "b");
    CHECK(std::string_view(c.advertise) == "c" && std::string_view(c.transports) == "d");
    CHECK(std::string_view(c.interfaces) == "e" && c.id->bytes[0] == 7);
    CHECK(c.store->size == sizeof *c.store && c.store->set != nullptr && c.store->get != nullptr);
    CHECK(c.timeout_ms == 1000 && c.connect_timeout_ms == 2000 && c.rank == 3 && c.ranks == 4 && c.preset == 1);
    CHECK(c.insecure == 1 && c.streams == 5 && c.first_port == 6 && c.last_port == 7 && c.min_peers == 8);
    CHECK(c.max_peers == 9 && c.shrink_only == 1 && c.newcomer == 1 && std::string_view(c.job) == "f");
    config.preset = ronde::preset::wan;
    CHECK(ronde::detail::c_config(config).get()->preset == 2);
}

// A store in the memory of this process, for ranks that are threads.
struct values {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::string, std::string> of;

    ronde::store store() {
        auto set = [this](const std::string &key, const std::string &value) {
            const std::lock_guard<std::mutex> hold(mutex);
            of[key] = value;
            changed.notify_all();
        };
        auto get = [this](const std::string &key, std::chrono::milliseconds timeout) -> std::optional<std::string> {
            std::unique_lock<std::mutex> hold(mutex);
            if (!changed.wait_for(hold, timeout, [&] { return of.count(key) > 0; })) return std::nullopt;
            return of[key];
        };
        return {set, get};
    }
};

sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET, address.sin_port = htons(port), address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

// A port that is in use until this object ends.
struct taken_port {
    taken_port() {
        sockaddr_in address = loopback(0);
        socklen_t length = sizeof address;
        auto *place = reinterpret_cast<sockaddr *>(&address);
        CHECK(bind(socket, place, length) == 0 && listen(socket, 1) == 0 && getsockname(socket, place, &length) == 0);
        number = ntohs(address.sin_port);
    }
    taken_port(const taken_port &) = delete;
    taken_port &operator=(const taken_port &) = delete;
    ~taken_port() { close(socket); }
    int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    std::uint16_t number = 0;
};

bool listens(std::uint16_t port) {
    const sockaddr_in address = loopback(port);
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    const bool connected = connect(socket, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0;
    close(socket);
    return connected;
}

// Two ranks meet through a store, and listen in a range of ports: one of them at the first.
void meet() {
    values kept;
    const std::uint16_t port = taken_port().number;
    auto rank = [&](int number) {
        ronde::config config;
        config.store = kept.store();
        config.rank = number, config.ranks = 2, config.connect_timeout = std::chrono::seconds(30);
        config.first_port = port, config.last_port = static_cast<std::uint16_t>(port + 100);
        auto group = ronde::group::join(config);
        CHECK(group.rank() == number && group.size() == 2);
        CHECK(listens(port));
        group.barrier();
        std::vector<int> x(10, number + 1);
        group.all_reduce(x);
        CHECK(x == std::vector<int>(10, 3));
        group.close();
    };
    std::thread other(rank, 1);
    rank(0);
    other.join();
    CHECK(kept.of.size() == 1 && kept.of.begin()->first.rfind("ronde/", 0) == 0);
}

// What stands in the way of joining, in the words of the library and of the store.
void refuse() {
    ronde::config config;
    config.rank = 0, config.ranks = 2, config.connect_timeout = std::chrono::seconds(5);
    const taken_port taken;
    config.first_port = config.last_port = taken.number;
    values kept;
    config.store = kept.store();
    throws(RONDE_RESOURCE, "no free port", [&] { (void)ronde::group::join(config); });

    config = {};
    config.ranks = 2, config.connect_timeout = std::chrono::milliseconds(100);
    config.store = ronde::store{[](auto &&...) { throw std::runtime_error("the disk is full"); },
                                [](auto &&...) -> std::optional<std::string> { throw 7; }};
    config.rank = 0;
    throws(RONDE_JOIN_FAILED, "the disk is full", [&] { (void)ronde::group::join(config); });
    config.rank = 1;
    throws(RONDE_JOIN_FAILED, "no std::exception", [&] { (void)ronde::group::join(config); });
    config.store->get = [](auto &&...) { return std::string(100000, 'x'); };
    throws(RONDE_JOIN_FAILED, "get function", [&] { (void)ronde::group::join(config); });
    config.store->get = nullptr;
    throws(RONDE_INVALID_ARGUMENT, "function of the store", [&] { (void)ronde::group::join(config); });
}

// Calls that become final together, by each of the ways to an end.
void committed(ronde::group &group) {
    const int n = group.size(), me = group.rank();
    const auto ranks = static_cast<std::size_t>(n);
    std::vector<int> x(1000, me), y(500, 1), z(500), all(ranks);
    auto product = ronde::reduction::premulsum(2);
    auto fill = [&](ronde::commit_group &commit) {
        x.assign(1000, me), z.assign(500, -1), all.assign(ranks, -1);
        commit.all_reduce(x, ronde::max);
        commit.all_reduce(y, z, product);
        ronde_call call = RONDE_CALL_INIT;
        call.collective = RONDE_ALL_GATHER, call.dtype = RONDE_I32, call.count = 1, call.send = &me, call.recv = all.data();
        commit.start(call);
    };
    auto check = [&] {
        CHECK(x == std::vector<int>(1000, n - 1) && z == std::vector<int>(500, 2 * n));
        for (int r = 0; r < n; ++r) CHECK(all[static_cast<std::size_t>(r)] == r);
    };
    ronde::options with;
    with.tag = 5, with.timeout = std::chrono::seconds(20);
    auto step = group.begin_commit(with);
    fill(step);
    const ronde::outcome done = std::move(step).commit();
    CHECK(done.contributors == static_cast<unsigned>(n) && done.detected.count() == 0);
    check();
    auto again = group.begin_commit();
    fill(again);
    std::move(again).seal().wait();
    check();
    try {
        auto left = group.begin_commit({}, 4000);
        fill(left);
        throws(RONDE_INVALID_ARGUMENT, "keep 4000 bytes", [&] { left.all_reduce(x); });
        throws(RONDE_INVALID_ARGUMENT, "lengths differ", [&] { left.all_reduce(x, y); });
        throw 7;
    } catch (int) {
        check();
    }
}

// Parts and holes as a later version of the library may give them, with more than this program knows.
void longer_entries() {
    const std::int32_t absent = 3;
    struct later {
        ronde_part known;
        std::uint64_t more;
    } parts[2] = {{{0, 10, nullptr, 0, 4, 0}, 77}, {{10, 5, &absent, 1, 3, 0}, 77}};
    ronde_outcome c = RONDE_OUTCOME_INIT;
    c.parts = &parts[0].known, c.part_count = 2, c.part_size = sizeof(later), c.detected_ns = 5, c.interrupted_ns = 6;
    struct later_hole {
        ronde_hole known;
        std::uint64_t more;
    } holes[2] = {{{0, 24, 0}, 77}, {{100, 4, 3}, 77}};
    c.holes = &holes[0].known, c.hole_count = 2, c.hole_size = sizeof(later_hole), c.generation = 8;
    const ronde::outcome outcome = ronde::detail::from_c(c);
    CHECK(outcome.parts.size() == 2 && outcome.parts[0].count == 10 && outcome.parts[0].absent.empty());
    CHECK(outcome.parts[1].first == 10 && outcome.parts[1].absent == std::vector<int>{3});
    CHECK(outcome.detected.count() == 5 && outcome.interrupted.count() == 6 && outcome.generation == 8);
    CHECK(outcome.holes.size() == 2 && outcome.holes[0].bytes == 24 && outcome.holes[1].first == 100);
    CHECK(outcome.holes[1].bytes == 4 && outcome.holes[1].call == 3);
}

// An exception that leaves a callback ends this process, as C++ says, before it comes to the library's frames.
void unwinding() {
    std::set_terminate([] { std::_Exit(std::current_exception() ? 7 : 8); });
    auto group = ronde::group::join();
    std::vector<int> x(1);
    group.all_reduce_start(x, x).on_complete([](const ronde::error *, const ronde::outcome *) { throw 1; });
    for (;;) std::this_thread::yield();
}

int main(int argc, char **argv) {
    if (argc == 2 && std::string_view(argv[1]) == "unwinding") unwinding();
    if (argc == 2 && std::string_view(argv[1]) == "grow") {
        member(ronde::create_id(), false);
        return 0;
    }
    if (argc == 2 && std::string_view(argv[1]) == "config") {
        fields();
        longer_entries();
        meet();
        refuse();
        return 0;
    }
    static_assert(ronde::dtype_of<unsigned char>::value == RONDE_U8 && ronde::dtype_of<long long>::value == RONDE_I64);
    auto group = ronde::group::join();
    const int n = group.size(), me = group.rank();
    const auto ranks = static_cast<std::size_t>(n), self = static_cast<std::size_t>(me);
    const double triangle = n * (n - 1) / 2.0;

    std::vector<double> x(1000, me), y(1000);
    const auto done = group.all_reduce(x, y, ronde::sum);
    CHECK(done.contributors == static_cast<unsigned>(n) && done.absent.empty() && done.interrupted.count() == 0);
    CHECK(y == std::vector<double>(1000, triangle));
    group.all_reduce(x, ronde::avg);
    CHECK(x[999] == triangle / n);
    std::array<bfloat16, 3> halves{{{0x3f80}, {0x4000}, {0x0000}}}; // 1, 2, 0
    group.all_reduce(halves, ronde::max);
    CHECK(halves[0].bits == 0x3f80 && halves[1].bits == 0x4000);

    const std::vector<int> mine(3, me);
    std::vector<int> all(3 * ranks), at_root(me == n - 1 ? 3 * ranks : 0);
    group.all_gather(mine, all);
    group.gather(mine, at_root, n - 1);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i] == static_cast<int>(i / 3));
    CHECK(me != n - 1 || at_root == all);
    std::vector<int> back(3, -1);
    group.scatter(at_root, back, n - 1);
    CHECK(back == mine);
    std::vector<int> summed(3);
    group.reduce_scatter(all, summed);
    CHECK(summed == std::vector<int>(3, n * me));
    std::vector<int> total(3, -1);
    group.reduce(mine, total, ronde::max, 0);
    CHECK(total == std::vector<int>(3, me == 0 ? n - 1 : -1));
    std::vector<int> out(ranks), in(ranks);
    for (std::size_t i = 0; i < ranks; ++i) out[i] = me * 100 + static_cast<int>(i);
    group.all_to_all(out, in);
    for (std::size_t i = 0; i < ranks; ++i) CHECK(in[i] == static_cast<int>(i) * 100 + me);
    std::vector<int> word(1, me == n - 1 ? 77 : 0);
    group.broadcast(word, n - 1);
    CHECK(word[0] == 77);
    group.barrier();

    ronde::blocks uneven;
    for (std::size_t i = 0; i < ranks; ++i) uneven.counts.push_back(i + 1);
    std::vector<int> own(self + 1, me), together(uneven.extent(), -1), rooted(me == 0 ? uneven.extent() : 0);
    group.all_gather_v(own, together, uneven);
    group.gather_v(own, rooted, uneven, 0);
    std::size_t at = 0;
    for (std::size_t i = 0; i < ranks; ++i)
        for (std::size_t k = 0; k <= i; ++k) CHECK(together[at++] == static_cast<int>(i));
    CHECK(me != 0 || rooted == together);
    std::vector<int> share(self + 1, -1);
    group.scatter_v(rooted, uneven, share, 0);
    CHECK(share == own);
    group.reduce_scatter_v(together, uneven, share);
    CHECK(share == std::vector<int>(self + 1, n * me));
    ronde::blocks sent{std::vector<std::size_t>(ranks, self + 1), {}}, received = uneven;
    std::vector<int> many(ranks * (self + 1), me), got(received.extent());
    group.all_to_all_v(many, sent, got, received);
    CHECK(got == together);

    // Ops in flight.
    std::vector<float> a(5000, 1.0f), b(5000), c(5000), d(5000);
    auto waited = group.all_reduce_start(a, b), tested = group.all_reduce_start(a, c);
    std::atomic<int> ended{0};
    group.all_reduce_start(a, d).on_complete([&](const ronde::error *error, const ronde::outcome *result) {
        ended = error == nullptr && result != nullptr ? 1 : -1;
    });
    pollfd wait{tested.descriptor(), POLLIN, 0};
    CHECK(poll(&wait, 1, 20000) == 1 && tested.test() && tested.wait_for(std::chrono::seconds(1)));
    CHECK(waited.wait().seq + 1 == tested.wait().seq);
    const auto start = std::chrono::steady_clock::now();
    while (ended == 0) {
        CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
        std::this_thread::yield();
    }
    CHECK(ended == 1 && b == std::vector<float>(5000, static_cast<float>(n)) && c == b && d == b);

    // Reductions of one's own.
    auto left_to_right = [](const int *src, int *acc, std::size_t count) noexcept {
        for (std::size_t i = 0; i < count; ++i) acc[i] = acc[i] * 10 + src[i];
    };
    std::vector<int> digit(2, me + 1);
    int wanted = 0;
    for (int i = 1; i <= n; ++i) wanted = wanted * 10 + i;
    group.all_reduce(digit, ronde::reduction::of<int>(left_to_right));
    CHECK(digit == std::vector<int>(2, wanted));
    std::vector<double> one(1, 1.0);
    auto scaled = ronde::reduction::premulsum(me + 0.5); // by its name it is no output
    group.all_reduce(one, scaled);
    CHECK(one[0] == triangle + 0.5 * n);
    group.all_reduce(one, scaled, {});
    group.all_reduce(one, one, scaled);
    one[0] = me;
    auto weighed = group.all_reduce(one, ronde::reduction::weighted_avg(2.0));
    CHECK(one[0] == double(triangle) / n && weighed.weight == 2.0 * n);
    CHECK(group.recent_calls().find("(tag 0), ") != std::string::npos);

    // Messages, parts, memory.
    if (n > 1) {
        std::vector<int> note(1, me), heard(1);
        if (me % 2 == 0 && me + 1 < n) {
            group.send(note, me + 1);
            group.recv(heard, me + 1);
            CHECK(heard[0] == me + 1);
        } else if (me % 2 == 1) {
            group.recv(heard, me - 1);
            group.send(note, me - 1);
            CHECK(heard[0] == me - 1);
        }
    }
    auto part = group.split(me % 2);
    CHECK(part && part->size() == (n + (me % 2 == 0)) / 2);
    CHECK(!group.split(-1).has_value());
    part->barrier();
    throws(RONDE_INVALID_ARGUMENT, "whole job", [&] { (void)part->update(); });
    const auto change = group.update();
    CHECK(!change.changed && change.generation == 0 && group.generation() == 0 && change.rank == me && change.size == n);
    CHECK(change.joined.empty() && change.gone.empty());
    {
        auto shared = group.allocate<float>(4096);
        ronde_call call = RONDE_CALL_INIT;
        call.collective = RONDE_ALL_REDUCE, call.dtype = RONDE_F32, call.count = 4096;
        call.send = call.recv = shared.get();
        shared[7] = 2.0f;
        CHECK(group.run({call}).at(0).contributors == static_cast<unsigned>(n));
        CHECK(shared[7] == 2.0f * static_cast<float>(n) && shared[8] == 0.0f);
        group.start(call).wait();
        CHECK(shared[7] == 2.0f * static_cast<float>(n * n));
    }

    committed(group);

    // Lengths that do not fit, and what the library says.
    ronde::options with;
    with.algorithm = "teleport";
    throws(RONDE_INVALID_ARGUMENT, "teleport", [&] { group.all_reduce(x, ronde::sum, with); });
    throws(RONDE_INVALID_ARGUMENT, "lengths differ", [&] { group.all_reduce(x, one, ronde::sum); });
    throws(RONDE_INVALID_ARGUMENT, "one entry for each rank", [&] { group.all_gather_v(own, together, {{}, {}}); });
    with = {};
    with.tag = 9, with.timeout = std::chrono::seconds(20), with.algorithm = "one-shot";
    with.tolerance = ronde::tolerance::none;
    group.all_reduce(word, ronde::sum, with);
    CHECK(word[0] == 77 * n);
    with = {};
    with.tolerance = ronde::tolerance::per_window;
    CHECK(ronde::detail::c_options(with).get()->tolerance == RONDE_PER_WINDOW);
    std::vector<float> windows(1 << 20, 1.0f);
    CHECK(group.all_reduce(windows, ronde::sum, with).parts.empty());
    CHECK(windows == std::vector<float>(1 << 20, static_cast<float>(n)));

    ronde::group moved = std::move(group);
    moved.barrier();
    moved.close();
    throws(RONDE_CLOSED, "closed", [&] { moved.barrier(); });
    return 0;
}
