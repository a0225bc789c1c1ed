// The backend of torch.distributed over one group of Ronde.
#pragma once

#include "membership.hpp"
#include "work.hpp"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/version.h>

#include <ATen/record_function.h>

#include <atomic>
#include <numeric>
#include <string_view>
#include <unordered_map>

namespace torch_ronde {

using Tensors = std::vector<at::Tensor>;
using Lists = std::vector<Tensors>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using c10d::OpType;

// Collectives of groups have this tag, messages these and those above.
constexpr uint32_t COLLECTIVES = 0, BARRIERS = 1, MESSAGES = 2;

class RondeBackend : public c10d::Backend {
public:
    struct Options : c10d::Backend::Options {
        explicit Options(milliseconds timeout) : c10d::Backend::Options("ronde", timeout) {}
        c10::intrusive_ptr<c10d::Backend::Options> clone() const override { return c10::make_intrusive<Options>(*this); }
    };

    // Without a group it waits for reconfigure, with this rank and size as the program gave them.
    RondeBackend(ronde_group *group, int rank, int size, std::string name, c10::intrusive_ptr<Options> options)
        : Backend(rank, size), members_(group), name_(std::move(name)), options_(std::move(options)) {
        for (const char *call : {"broadcast", "all_reduce", "sparse_all_reduce", "reduce", "all_gather", "gather", "scatter", "reduce_scatter",
                                 "all_to_all", "send", "recv", "recvAnySource", "barrier"})
            titles_.emplace(call, name_ + ":" + call);
    }

    const std::string getBackendName() const override { return name_; }
    c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override { return options_; }
    void setTimeout(milliseconds timeout) override { options_->timeout = timeout; }
    uint64_t getSequenceNumberForGroup() override { return collectives_; }

    WorkPtr broadcast(Tensors &tensors, const c10d::BroadcastOptions &opts) override {
        check_root(opts.rootRank);
        Prepared p = prepare(OpType::BROADCAST, "broadcast", tensors);
        at::Tensor &data = one(tensors, "broadcast");
        at::Tensor flat = opts.rootRank == rank_ ? data.contiguous() : landing(data);
        move(p, RONDE_BROADCAST, &flat, &flat, flat.numel(), opts.rootRank);
        if (opts.rootRank != rank_) bring_back(p, flat, data);
        p.parts.outputs = tensors;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr allreduce(Tensors &tensors, const c10d::AllreduceOptions &opts) override {
        at::Tensor &data = one(tensors, "allreduce");
        if (data.is_sparse()) return allreduce_sparse(tensors, opts);
        Prepared p = prepare(OpType::ALLREDUCE, "all_reduce", tensors);
        reduce_all(p, data, opts.reduceOp);
        p.parts.outputs = tensors;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr allreduce_coalesced(Tensors &tensors, const c10d::AllreduceCoalescedOptions &opts) override {
        Prepared p = prepare(OpType::ALLREDUCE_COALESCED, "all_reduce", tensors);
        for (at::Tensor &data : tensors) reduce_all(p, data, opts.reduceOp);
        p.parts.outputs = tensors;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr reduce(Tensors &tensors, const c10d::ReduceOptions &opts) override {
        check_root(opts.rootRank);
        Prepared p = prepare(OpType::REDUCE, "reduce", tensors);
        at::Tensor &data = one(tensors, "reduce");
        at::Tensor flat = data.contiguous();
        const bool is_root = opts.rootRank == rank_;
        add(p, RONDE_REDUCE, dtype_of(data.scalar_type()), flat.numel(), &flat, is_root ? &flat : nullptr, opts.rootRank, COLLECTIVES,
            reduction(p, opts.reduceOp, data));
        if (is_root) bring_back(p, flat, data);
        p.parts.outputs = tensors;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr allgather(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &opts) override {
        Prepared p = prepare(OpType::ALLGATHER, "all_gather", inputs);
        gather_lists(p, outputs, inputs);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr allgather_coalesced(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &opts) override {
        Prepared p = prepare(OpType::ALLGATHER_COALESCED, "all_gather", inputs);
        // Of each rank a list of what it gives: the other way round.
        TORCH_CHECK_VALUE(outputs.size() == static_cast<size_t>(size_), "all_gather_coalesced: give a list for each of ", size_, " ranks");
        Lists by_input(inputs.size());
        for (size_t i = 0; i < inputs.size(); i++) {
            for (Tensors &list : outputs) {
                TORCH_CHECK_VALUE(list.size() == inputs.size(), "all_gather_coalesced: an output for each input");
                by_input[i].push_back(list[i]);
            }
        }
        gather_lists(p, by_input, inputs);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr _allgather_base(at::Tensor &output, at::Tensor &input, const c10d::AllgatherOptions &opts) override {
        Prepared p = prepare(OpType::_ALLGATHER_BASE, "all_gather", {input});
        gather_flat(p, output, input);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs, const c10d::AllgatherOptions &opts) override {
        Prepared p = prepare(OpType::ALLGATHER_INTO_TENSOR_COALESCED, "all_gather", inputs);
        TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "all_gather: ", inputs.size(), " inputs, ", outputs.size(), " outputs");
        for (size_t i = 0; i < inputs.size(); i++) gather_flat(p, outputs[i], inputs[i]);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr gather(Lists &outputs, Tensors &inputs, const c10d::GatherOptions &opts) override {
        check_root(opts.rootRank);
        Prepared p = prepare(OpType::GATHER, "gather", inputs);
        at::Tensor flat = one(inputs, "gather").contiguous();
        const bool is_root = opts.rootRank == rank_;
        TORCH_CHECK_VALUE(is_root ? outputs.size() == 1 : outputs.empty(), "gather: outputs at the root, and only there");
        at::Tensor all;
        if (is_root) all = joined(p, outputs[0], size_, flat, "gather");
        move(p, RONDE_GATHER, &flat, is_root ? &all : nullptr, flat.numel(), opts.rootRank);
        if (is_root) p.parts.outputs = outputs[0];
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr gather_into_tensor(at::Tensor &output, at::Tensor &input, const c10d::GatherOptions &opts) override {
        check_root(opts.rootRank);
        Prepared p = prepare(OpType::GATHER, "gather", {input});
        at::Tensor flat = input.contiguous(), all;
        const bool is_root = opts.rootRank == rank_;
        if (is_root) {
            check_length(output, flat.numel() * size_, input, "gather");
            all = landing(output);
        }
        move(p, RONDE_GATHER, &flat, is_root ? &all : nullptr, flat.numel(), opts.rootRank);
        if (is_root) bring_back(p, all, output), p.parts.outputs = {output};
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr scatter(Tensors &outputs, Lists &inputs, const c10d::ScatterOptions &opts) override {
        check_root(opts.rootRank);
        at::Tensor &output = one(outputs, "scatter");
        const bool is_root = opts.rootRank == rank_;
        TORCH_CHECK_VALUE(is_root ? inputs.size() == 1 : inputs.empty(), "scatter: inputs at the root, and only there");
        Prepared p = prepare(OpType::SCATTER, "scatter", is_root ? inputs[0] : Tensors{});
        at::Tensor all, flat = landing(output);
        if (is_root) all = together(inputs[0], size_, output, "scatter");
        move(p, RONDE_SCATTER, is_root ? &all : nullptr, &flat, flat.numel(), opts.rootRank);
        bring_back(p, flat, output);
        p.parts.outputs = outputs;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr reduce_scatter(Tensors &outputs, Lists &inputs, const c10d::ReduceScatterOptions &opts) override {
        at::Tensor &output = one(outputs, "reduce_scatter");
        TORCH_CHECK_VALUE(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_), "reduce_scatter: give an input for each of ", size_,
                          " ranks");
        Prepared p = prepare(OpType::REDUCE_SCATTER, "reduce_scatter", inputs[0]);
        bool is_even = true;
        for (const at::Tensor &input : inputs[0]) is_even &= input.numel() == output.numel();
        Tensors flat;
        for (const at::Tensor &input : inputs[0]) {
            TORCH_CHECK_TYPE(input.scalar_type() == output.scalar_type(), "reduce_scatter: inputs and output are of different types");
            flat.push_back(input.contiguous().view(-1));
        }
        at::Tensor all = at::cat(flat), mine = landing(output);
        const ronde_reduction how = reduction(p, opts.reduceOp, output);
        if (is_even) {
            add(p, RONDE_REDUCE_SCATTER, dtype_of(output.scalar_type()), mine.numel(), &all, &mine, 0, COLLECTIVES, how);
        } else {
            TORCH_CHECK_VALUE(inputs[0][rank_].numel() == output.numel(), "reduce_scatter: the output has ", output.numel(), " elements, and this rank's input ",
                              inputs[0][rank_].numel());
            ronde_call &call = add(p, RONDE_REDUCE_SCATTER_V, dtype_of(output.scalar_type()), 0, &all, &mine, 0, COLLECTIVES, how);
            call.send_counts = counts(p, flat);
        }
        bring_back(p, mine, output);
        p.parts.outputs = outputs;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr _reduce_scatter_base(at::Tensor &output, at::Tensor &input, const c10d::ReduceScatterOptions &opts) override {
        Prepared p = prepare(OpType::_REDUCE_SCATTER_BASE, "reduce_scatter", {input});
        scatter_reduced(p, output, input, opts.reduceOp);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs, const c10d::ReduceScatterOptions &opts) override {
        Prepared p = prepare(OpType::REDUCE_SCATTER_TENSOR_COALESCED, "reduce_scatter", inputs);
        TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "reduce_scatter: ", inputs.size(), " inputs, ", outputs.size(), " outputs");
        for (size_t i = 0; i < inputs.size(); i++) scatter_reduced(p, outputs[i], inputs[i], opts.reduceOp);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr alltoall_base(at::Tensor &output, at::Tensor &input, std::vector<int64_t> &output_splits, std::vector<int64_t> &input_splits,
                          const c10d::AllToAllOptions &opts) override {
        Prepared p = prepare(OpType::ALLTOALL_BASE, "all_to_all", {input});
        check_type(output, input, "all_to_all");
        at::Tensor from = input.contiguous(), to = landing(output);
        if (output_splits.empty() && input_splits.empty()) {
            TORCH_CHECK_VALUE(input.numel() == output.numel() && (size_ == 1 || (input.dim() > 0 && input.size(0) % size_ == 0)), "all_to_all: ", size_,
                              " ranks cannot share ", input.sizes(), " and ", output.sizes(), " evenly");
            move(p, RONDE_ALL_TO_ALL, &from, &to, from.numel() / size_, 0);
        } else {
            ronde_call &call = move(p, RONDE_ALL_TO_ALL_V, &from, &to, 0, 0);
            call.send_counts = counts(p, input, input_splits, "input");
            call.recv_counts = counts(p, output, output_splits, "output");
        }
        bring_back(p, to, output);
        p.parts.outputs = {output};
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &opts) override {
        const auto n = static_cast<size_t>(size_);
        TORCH_CHECK_VALUE(outputs.size() == n && inputs.size() == n, "all_to_all: give an input and an output for each of ", size_, " ranks");
        Prepared p = prepare(OpType::ALLTOALL, "all_to_all", inputs);
        Tensors from, to;
        for (size_t i = 0; i < n; i++) {
            check_type(outputs[i], inputs[0], "all_to_all"), check_type(inputs[i], inputs[0], "all_to_all");
            from.push_back(inputs[i].contiguous().view(-1)), to.push_back(outputs[i].reshape(-1));
        }
        at::Tensor all_from = at::cat(from), all_to = at::empty({total(outputs)}, inputs[0].options().memory_format(at::MemoryFormat::Contiguous));
        ronde_call &call = move(p, RONDE_ALL_TO_ALL_V, &all_from, &all_to, 0, 0);
        call.send_counts = counts(p, from), call.recv_counts = counts(p, to);
        hand_out(p, all_to, outputs);
        p.parts.outputs = outputs;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr send(Tensors &tensors, int to, int tag) override {
        Prepared p = prepare(OpType::SEND, "send", tensors);
        at::Tensor flat = one(tensors, "send").contiguous();
        move(p, RONDE_SEND, &flat, nullptr, flat.numel(), to, message_tag(tag));
        return run(std::move(p), c10d::kUnsetTimeout, true);
    }

    WorkPtr recv(Tensors &tensors, int from, int tag) override {
        Prepared p = prepare(OpType::RECV, "recv", tensors);
        at::Tensor &data = one(tensors, "recv"), flat = landing(data);
        move(p, RONDE_RECV, nullptr, &flat, flat.numel(), from, message_tag(tag));
        bring_back(p, flat, data);
        p.parts.outputs = tensors;
        auto work = run(std::move(p), c10d::kUnsetTimeout, true);
        static_cast<RondeWork &>(*work).from(from);
        return work;
    }

    WorkPtr recvAnysource(Tensors &tensors, int tag) override {
        Prepared p = prepare(OpType::RECVANYSOURCE, "recvAnySource", tensors);
        at::Tensor &data = one(tensors, "recv"), flat = landing(data);
        const uint32_t number = message_tag(tag);
        const Elements elements = moved(flat.scalar_type());
        p.parts.tensors.push_back(flat);
        const int64_t timeout = options_->timeout.count();
        auto self = c10::intrusive_ptr<RondeBackend>::reclaim_copy(this);
        p.parts.find = [self, flat, number, elements, timeout](milliseconds patience, ronde_op **op) {
            // Between the two steps no other receive may take what was found.
            std::lock_guard<std::mutex> lock(self->finding_);
            int32_t from = -1;
            const ronde_status status = ronde_probe(self->group().get(), number, patience.count(), &from);
            if (status == RONDE_IN_PROGRESS) return -1;
            check(status);
            ronde_options options = RONDE_OPTIONS_INIT;
            options.timeout_ms = timeout, options.tag = number, options.tolerance = RONDE_NONE;
            ronde_call call = RONDE_CALL_INIT;
            call.collective = RONDE_RECV, call.dtype = elements.dtype, call.count = static_cast<size_t>(flat.numel()) * elements.per_element;
            call.recv = flat.data_ptr(), call.peer = from, call.options = &options;
            check(ronde_start(self->group().get(), &call, op));
            return static_cast<int>(from);
        };
        bring_back(p, flat, data);
        p.parts.outputs = tensors;
        return run(std::move(p), c10d::kUnsetTimeout, true);
    }

    WorkPtr barrier(const c10d::BarrierOptions &opts) override {
        Prepared p = prepare(OpType::BARRIER, "barrier", {});
        add(p, RONDE_BARRIER, RONDE_U8, 0, nullptr, nullptr, 0, COLLECTIVES, RONDE_SUM);
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    WorkPtr allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &opts) override {
        at::Tensor &data = one(tensors, "all_reduce");
        TORCH_CHECK_VALUE(data.is_sparse() && data.device().is_cpu(), "sparse all_reduce: the tensor is not sparse (COO) on the CPU");
        TORCH_CHECK_VALUE(opts.reduceOp == c10d::ReduceOp::SUM, "sparse all_reduce: only sums");
        // Each rank has as many elements as it has: how many is said first, so this part is waited for here.
        const at::Tensor mine = data.coalesce();
        const at::Tensor places = mine.indices().contiguous(), values = mine.values().contiguous();
        std::vector<int64_t> lengths(size_);
        exchange(mine._nnz(), lengths.data(), opts.timeout);
        Prepared p = prepare(OpType::_ALLREDUCE_SPARSE, "sparse_all_reduce", {places, values});
        // Columns of indices lie apart: they travel as rows.
        const at::Tensor rows = places.t().contiguous();
        const int64_t dimensions = rows.size(1), all = std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
        const int64_t each = values.numel() / std::max<int64_t>(1, mine._nnz());
        auto shape = values.sizes().vec();
        shape[0] = all;
        at::Tensor all_rows = at::empty({all, dimensions}, rows.options()), all_values = at::empty(shape, values.options());
        // Of no elements there is no telling how long one is; its shape says.
        int64_t dense = 1;
        for (int64_t d = 1; d < values.dim(); d++) dense *= values.size(d);
        TORCH_INTERNAL_ASSERT(mine._nnz() == 0 || each == dense);
        move(p, RONDE_ALL_GATHER_V, &rows, &all_rows, 0, 0).recv_counts = scaled(p, lengths, dimensions * moved(rows.scalar_type()).per_element);
        move(p, RONDE_ALL_GATHER_V, &values, &all_values, 0, 0).recv_counts = scaled(p, lengths, dense * moved(values.scalar_type()).per_element);
        p.conclusions.emplace_back([all_rows, all_values, data] {
            at::NoGradGuard no_grad;
            at::Tensor(data).copy_(at::sparse_coo_tensor(all_rows.t(), all_values, data.sizes(), data.options()).coalesce());
        });
        p.parts.outputs = tensors;
        return run(std::move(p), opts.timeout, opts.asyncOp);
    }

    // Names who has not come: rank 0 hears from all, and lets all go.
    void monitoredBarrier(const c10d::BarrierOptions &opts, bool wait_all) override {
        const milliseconds timeout = opts.timeout == c10d::kUnsetTimeout ? options_->timeout : opts.timeout;
        if (rank_ == 0 && timeout <= milliseconds(0)) {
            C10_THROW_ERROR(DistBackendError, "[Rank 0]: Rank 0 timed out in monitoredBarrier before anybody came: its timeout is 0");
        }
        const auto until = Clock::now() + timeout;
        const auto left = [&] { return std::max(milliseconds(1), std::chrono::ceil<milliseconds>(until - Clock::now())); };
        char word = 1;
        if (rank_ != 0) {
            check(tell(0, RONDE_SEND, &word, timeout));
            // Rank 0 says who is missing after the timeout; its word comes a little later.
            const ronde_status status = tell(0, RONDE_RECV, &word, timeout + timeout / 2 + milliseconds(1000));
            if (status == RONDE_OK && word == 1) return;
            C10_THROW_ERROR(DistBackendError, c10::str("[Rank ", rank_, "]: Rank ", rank_, " successfully reached monitoredBarrier, but received errors while ",
                            "waiting for send/recv from rank 0: it has failed there, or has not come. Its own error names who is missing. ", status == RONDE_OK ? "" : ronde_last_error()));
        }
        struct Awaited { ronde_op *op; char word; };
        std::vector<Awaited> awaited(size_, Awaited{nullptr, 0});
        std::vector<int> missing, here;
        for (int rank = 1; rank < size_; rank++) check(begin(rank, RONDE_RECV, &awaited[rank].word, timeout * 2 + milliseconds(1000), &awaited[rank].op));
        for (int rank = 1; rank < size_; rank++) {
            // After the first that is missing all others get one look, so that all who are can be named.
            const bool has_time = missing.empty();
            const ronde_status status = has_time ? ronde_op_wait_for(awaited[rank].op, left().count(), nullptr) : ronde_op_test(awaited[rank].op, nullptr);
            if (status == RONDE_OK) here.push_back(rank);
            else if (has_time || wait_all) missing.push_back(rank);
            // What has begun to come comes: its byte is here until then.
            if (status == RONDE_IN_PROGRESS && ronde_op_cancel(awaited[rank].op) == RONDE_IN_PROGRESS) ronde_op_wait(awaited[rank].op, nullptr);
            ronde_op_free(awaited[rank].op);
        }
        word = missing.empty() ? 1 : 0;
        for (int rank : here) (void)tell(rank, RONDE_SEND, &word, left() + milliseconds(1000));
        if (missing.empty()) return;
        C10_THROW_ERROR(DistBackendError, c10::str("[Rank 0]: Rank", missing.size() > 1 ? "s " : " ", c10::Join(", ", missing),
                        " failed to pass monitoredBarrier in ", timeout.count(), " ms"));
    }

    void abort() override {
        if (members_.is_there()) check(ronde_abort(group().get(), "torch.distributed aborted the process group"));
    }

    void shutdown() override {
        if (members_.is_there() && !closed_.exchange(true)) check(ronde_close(group().get()));
    }

    c10d::ErrorType getError() override {
        switch (members_.is_there() ? ronde_failure(group().get()) : RONDE_OK) {
        case RONDE_OK: return c10d::ErrorType::SUCCESS;
        case RONDE_TIMEOUT: return c10d::ErrorType::TIMEOUT;
        case RONDE_PEER_LOST: return c10d::ErrorType::REMOTE_ERROR;
        default: return c10d::ErrorType::COMM_ERROR;
        }
    }

    bool supportsSplitting() const override { return true; }

    // Every rank calls it; who is in no group gets none.
    c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store> &, const std::vector<int> &ranks,
                                      const c10::intrusive_ptr<c10d::Backend::Options> &opts) override {
        const auto at = std::find(ranks.begin(), ranks.end(), rank_);
        const bool is_in = at != ranks.end();
        ronde_group *part = nullptr;
        check(ronde_split(group().get(), is_in ? ranks.front() : -1, static_cast<int32_t>(at - ranks.begin()), &part));
        if (part == nullptr) return nullptr;
        auto options = c10::make_intrusive<Options>(opts ? opts->timeout : options_->timeout);
        if (opts) options->group_name = opts->group_name, options->group_desc = opts->group_desc, options->global_ranks_in_group = opts->global_ranks_in_group;
        auto backend = c10::make_intrusive<RondeBackend>(part, ronde_rank(part), ronde_size(part), name_, options);
        // The group that it is a part of lives as long.
        backend->parent_ = c10::intrusive_ptr<RondeBackend>::reclaim_copy(this);
        return backend;
    }

#ifdef C10D_BACKEND_HAS_RECONFIGURE
    bool supportsReconfigure() const override { return true; }
    c10d::ReconfigureHandle get_reconfigure_handle() const override { return members_.handle(); }

    // Returns when all are there: the work has ended.
    WorkPtr reconfigure(const c10d::ReconfigureOptions &opts) override {
        const Membership::Group joined = members_.reconfigure(opts, options_->timeout);
        rank_ = ronde_rank(joined.get()), size_ = ronde_size(joined.get());
        collectives_ = 0, messages_ = 0, closed_ = false;
        auto work = c10::make_intrusive<RondeWork>(rank_, OpType::UNKNOWN, "ronde:reconfigure", Tensors{}, 0, options_->timeout);
        work->isCompleted();
        return work;
    }
#endif
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 15
    bool isInitialized() override { return members_.is_there(); }
#endif

private:
    Membership::Group group() const { return members_.group(); }

    // Calls that make one work.
    struct Prepared {
        OpType type;
        const char *title;
        // For profilers.
        Tensors inputs;
        std::vector<ronde_call> calls;
        std::vector<uint32_t> tags;
        std::vector<std::unique_ptr<size_t[]>> arrays;
        std::vector<std::unique_ptr<Reduction>> reductions;
        std::vector<std::function<void()>> conclusions;
        RondeWork::Parts parts;
    };

    Prepared prepare(OpType type, const char *call, const Tensors &inputs) const {
        for (const at::Tensor &tensor : inputs) check_tensor(tensor, call);
        // Without a profiler nobody asks what it is called, and with which tensors.
        const bool is_profiled = at::hasCallbacks();
        return {type, is_profiled ? titles_.at(call).c_str() : nullptr, is_profiled ? inputs : Tensors{}, {}, {}, {}, {}, {}, {}};
    }

    static void check_tensor(const at::Tensor &tensor, const char *what) {
        TORCH_CHECK_VALUE(tensor.defined(), what, ": an undefined tensor");
        TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, what, ": the tensor is ", tensor.layout(), ", and has to be dense");
        TORCH_CHECK_VALUE(tensor.device().is_cpu(), what, ": the tensor is on ", tensor.device(), ", and Ronde works on those of the CPU");
    }

    static at::Tensor &one(Tensors &tensors, const char *what) {
        TORCH_CHECK_VALUE(tensors.size() == 1, what, ": ", tensors.size(), " tensors, and each rank has one");
        return tensors[0];
    }

    void check_root(int64_t root) const { TORCH_CHECK_VALUE(root >= 0 && root < size_, "root ", root, " of ", size_, " ranks"); }

    static void check_type(const at::Tensor &output, const at::Tensor &input, const char *what) {
        check_tensor(output, what);
        TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(), what, ": the output is of ", output.scalar_type(), ", the input of ",
                         input.scalar_type());
    }

    static void check_length(const at::Tensor &output, int64_t wanted, const at::Tensor &input, const char *what) {
        check_type(output, input, what);
        TORCH_CHECK_VALUE(output.numel() == wanted, what, ": the output has ", output.numel(), " elements, and should have ", wanted);
    }

    static int64_t total(const Tensors &tensors) {
        return std::accumulate(tensors.begin(), tensors.end(), int64_t(0), [](int64_t sum, const at::Tensor &t) { return sum + t.numel(); });
    }

    // Where results come: the tensor itself if its elements are in a row.
    static at::Tensor landing(const at::Tensor &tensor) {
        check_tensor(tensor, "the output");
        return tensor.is_contiguous() ? tensor : at::empty(tensor.sizes(), tensor.options().memory_format(at::MemoryFormat::Contiguous));
    }

    static void bring_back(Prepared &p, const at::Tensor &flat, const at::Tensor &to) {
        if (flat.is_same(to) || flat.data_ptr() == to.data_ptr()) return;
        p.conclusions.emplace_back([flat, to] { at::NoGradGuard no_grad; at::Tensor(to).copy_(flat.view(to.sizes())); });
    }

    // What comes in a row goes to many tensors.
    static void hand_out(Prepared &p, const at::Tensor &flat, const Tensors &to) {
        p.conclusions.emplace_back([flat, to] {
            at::NoGradGuard no_grad;
            int64_t at = 0;
            for (const at::Tensor &tensor : to) {
                at::Tensor(tensor).copy_(flat.slice(0, at, at + tensor.numel()).view(tensor.sizes()));
                at += tensor.numel();
            }
        });
    }

    // Memory for the blocks of all, which then go to these tensors.
    at::Tensor joined(Prepared &p, const Tensors &outputs, int64_t count, const at::Tensor &input, const char *what) const {
        TORCH_CHECK_VALUE(outputs.size() == static_cast<size_t>(count), what, ": ", outputs.size(), " outputs, and there are ", count, " ranks");
        for (const at::Tensor &output : outputs) check_length(output, input.numel(), input, what);
        at::Tensor all = at::empty({input.numel() * count}, input.options().memory_format(at::MemoryFormat::Contiguous).requires_grad(false));
        hand_out(p, all, outputs);
        return all;
    }

    static at::Tensor together(const Tensors &inputs, int64_t count, const at::Tensor &output, const char *what) {
        TORCH_CHECK_VALUE(inputs.size() == static_cast<size_t>(count), what, ": ", inputs.size(), " inputs, and there are ", count, " ranks");
        Tensors flat;
        for (const at::Tensor &input : inputs) {
            check_length(output, input.numel(), input, what);
            flat.push_back(input.contiguous().view(-1));
        }
        return at::cat(flat);
    }

    static const size_t *counts(Prepared &p, const Tensors &tensors) {
        auto array = std::make_unique<size_t[]>(tensors.size());
        for (size_t i = 0; i < tensors.size(); i++) array[i] = static_cast<size_t>(tensors[i].numel()) * moved(tensors[i].scalar_type()).per_element;
        return p.arrays.emplace_back(std::move(array)).get();
    }

    // Splits along the first dimension, as elements; none for even ones.
    const size_t *counts(Prepared &p, const at::Tensor &tensor, const std::vector<int64_t> &splits, const char *which) const {
        const int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 1, row = rows > 0 ? tensor.numel() / rows : 0;
        auto array = std::make_unique<size_t[]>(size_);
        if (splits.empty()) {
            TORCH_CHECK_VALUE(rows % size_ == 0, "all_to_all: ", size_, " ranks cannot share ", rows, " rows of the ", which, " evenly");
        } else {
            const int64_t sum = std::accumulate(splits.begin(), splits.end(), int64_t(0));
            const bool is_sound = std::all_of(splits.begin(), splits.end(), [](int64_t split) { return split >= 0; });
            TORCH_CHECK_VALUE(splits.size() == static_cast<size_t>(size_) && sum == rows && is_sound, "all_to_all: the splits of the ", which, " are ", splits,
                              " for ", size_, " ranks and ", rows, " rows");
        }
        for (int i = 0; i < size_; i++)
            array[i] = static_cast<size_t>((splits.empty() ? rows / size_ : splits[i]) * row) * moved(tensor.scalar_type()).per_element;
        return p.arrays.emplace_back(std::move(array)).get();
    }

    static ronde_reduction reduction(Prepared &p, const c10d::ReduceOp &op, const at::Tensor &of) {
        return p.reductions.emplace_back(std::make_unique<Reduction>(op, of.scalar_type()))->number();
    }

    static const size_t *scaled(Prepared &p, const std::vector<int64_t> &lengths, int64_t by) {
        auto array = std::make_unique<size_t[]>(lengths.size());
        for (size_t i = 0; i < lengths.size(); i++) array[i] = static_cast<size_t>(lengths[i] * by);
        return p.arrays.emplace_back(std::move(array)).get();
    }

    // A number of each rank.
    void exchange(int64_t mine, int64_t *all, milliseconds timeout) {
        ronde_options options = RONDE_OPTIONS_INIT;
        options.timeout_ms = (timeout > kNoTimeout ? timeout : options_->timeout).count(), options.tolerance = RONDE_NONE;
        check(ronde_all_gather(group().get(), &mine, all, 1, RONDE_I64, &options, nullptr));
    }

    // A byte to or from a rank.
    ronde_status begin(int rank, ronde_collective collective, char *word, milliseconds timeout, ronde_op **op) {
        ronde_options options = RONDE_OPTIONS_INIT;
        options.timeout_ms = timeout.count(), options.tolerance = RONDE_NONE, options.tag = BARRIERS;
        ronde_call call = RONDE_CALL_INIT;
        call.collective = collective, call.count = 1, call.peer = rank, call.options = &options;
        call.send = call.recv = word;
        return ronde_start(group().get(), &call, op);
    }

    ronde_status tell(int rank, ronde_collective collective, char *word, milliseconds timeout) {
        ronde_op *op = nullptr;
        ronde_status status = begin(rank, collective, word, timeout, &op);
        if (status == RONDE_OK) status = ronde_op_wait(op, nullptr);
        ronde_op_free(op);
        return status;
    }

    static uint32_t message_tag(int tag) {
        TORCH_CHECK_VALUE(tag >= 0, "the tag ", tag, " is negative");
        return MESSAGES + static_cast<uint32_t>(tag);
    }

    static ronde_call &add(Prepared &p, ronde_collective collective, ronde_dtype dtype, size_t count, const at::Tensor *send, const at::Tensor *recv,
                           int64_t peer, uint32_t tag, ronde_reduction how) {
        ronde_call call = RONDE_CALL_INIT;
        call.collective = collective, call.dtype = dtype, call.reduction = how, call.count = count, call.peer = static_cast<int32_t>(peer);
        if (send != nullptr) call.send = send->const_data_ptr(), p.parts.tensors.push_back(*send);
        if (recv != nullptr) call.recv = recv->data_ptr(), p.parts.tensors.push_back(*recv);
        p.tags.push_back(tag);
        return p.calls.emplace_back(call);
    }

    // Of what is only moved.
    static ronde_call &move(Prepared &p, ronde_collective collective, const at::Tensor *send, const at::Tensor *recv, int64_t count, int64_t peer,
                            uint32_t tag = COLLECTIVES) {
        const Elements elements = moved((send != nullptr ? send : recv)->scalar_type());
        return add(p, collective, elements.dtype, static_cast<size_t>(count) * elements.per_element, send, recv, peer, tag, RONDE_SUM);
    }

    void reduce_all(Prepared &p, at::Tensor &data, const c10d::ReduceOp &op) {
        check_tensor(data, "all_reduce");
        at::Tensor flat = data.contiguous();
        add(p, RONDE_ALL_REDUCE, dtype_of(data.scalar_type()), flat.numel(), &flat, &flat, 0, COLLECTIVES, reduction(p, op, data));
        bring_back(p, flat, data);
    }

    void gather_flat(Prepared &p, at::Tensor &output, const at::Tensor &input) {
        check_length(output, input.numel() * size_, input, "all_gather");
        at::Tensor flat = input.contiguous(), all = landing(output);
        move(p, RONDE_ALL_GATHER, &flat, &all, flat.numel(), 0);
        bring_back(p, all, output);
        p.parts.outputs.push_back(output);
    }

    void gather_lists(Prepared &p, Lists &outputs, Tensors &inputs) {
        TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "all_gather: ", inputs.size(), " inputs, ", outputs.size(), " lists of outputs");
        for (size_t i = 0; i < inputs.size(); i++) {
            at::Tensor flat = inputs[i].contiguous();
            TORCH_CHECK_VALUE(outputs[i].size() == static_cast<size_t>(size_), "all_gather: ", outputs[i].size(), " outputs, and there are ", size_, " ranks");
            const bool is_even = std::all_of(outputs[i].begin(), outputs[i].end(), [&](const at::Tensor &o) { return o.numel() == flat.numel(); });
            if (is_even) {
                at::Tensor all = joined(p, outputs[i], size_, flat, "all_gather");
                move(p, RONDE_ALL_GATHER, &flat, &all, flat.numel(), 0);
            } else {
                for (const at::Tensor &output : outputs[i]) check_type(output, flat, "all_gather");
                check_length(outputs[i][rank_], flat.numel(), flat, "all_gather");
                at::Tensor all = at::empty({total(outputs[i])}, flat.options().memory_format(at::MemoryFormat::Contiguous).requires_grad(false));
                ronde_call &call = move(p, RONDE_ALL_GATHER_V, &flat, &all, 0, 0);
                call.recv_counts = counts(p, outputs[i]);
                hand_out(p, all, outputs[i]);
            }
            p.parts.outputs.insert(p.parts.outputs.end(), outputs[i].begin(), outputs[i].end());
        }
    }

    void scatter_reduced(Prepared &p, at::Tensor &output, const at::Tensor &input, const c10d::ReduceOp &op) {
        check_type(output, input, "reduce_scatter");
        TORCH_CHECK_VALUE(input.numel() == output.numel() * size_, "reduce_scatter: the input has ", input.numel(), " elements, and should have ",
                          output.numel() * size_);
        at::Tensor all = input.contiguous(), mine = landing(output);
        add(p, RONDE_REDUCE_SCATTER, dtype_of(output.scalar_type()), mine.numel(), &all, &mine, 0, COLLECTIVES, reduction(p, op, output));
        bring_back(p, mine, output);
        p.parts.outputs.push_back(output);
    }

    // Starts all calls; who does not want to wait gets a work that goes on.
    WorkPtr run(Prepared p, milliseconds timeout, bool is_async) {
        if (timeout == c10d::kUnsetTimeout || timeout == kNoTimeout) timeout = options_->timeout;
        ronde_options options = RONDE_OPTIONS_INIT;
        options.timeout_ms = timeout.count(), options.tolerance = RONDE_NONE;
        const bool is_message = p.type == OpType::SEND || p.type == OpType::RECV || p.type == OpType::RECVANYSOURCE;
        const uint64_t number = is_message ? messages_++ : ++collectives_;
        auto work = c10::make_intrusive<RondeWork>(rank_, p.type, p.title, p.inputs, number, timeout);
        if (p.conclusions.size() == 1) {
            p.parts.conclude = std::move(p.conclusions.front());
        } else if (!p.conclusions.empty()) {
            p.parts.conclude = [all = std::move(p.conclusions)] { for (const auto &one : all) one(); };
        }
        const bool copies = static_cast<bool>(p.parts.conclude);
        if (copies) p.parts.caller.emplace();
        std::exception_ptr failed;
        for (size_t i = 0; i < p.calls.size() && !failed; i++) {
            options.tag = p.tags[i], p.calls[i].options = &options;
            ronde_op *op = nullptr;
            const ronde_status status = ronde_start(group().get(), &p.calls[i], &op);
            if (status == RONDE_OK) p.parts.ops.push_back(op);
            else failed = error_of(status);
        }
        work->hold(std::move(p.parts));
        // What was started goes on; the work keeps its memory.
        if (failed) std::rethrow_exception(failed);
        if (!is_async) work->wait();
        else work->isCompleted();
        if (is_async && copies) work->conclude_in_any_case();
        return work;
    }

    // Goes after its part.
    c10::intrusive_ptr<RondeBackend> parent_;
    Membership members_;
    // That it is registered by, and what profilers call its calls.
    const std::string name_;
    std::unordered_map<std::string_view, std::string> titles_;
    const c10::intrusive_ptr<Options> options_;
    std::atomic<uint64_t> collectives_{0}, messages_{0};
    std::atomic<bool> closed_{false};
    std::mutex finding_;
};

} // namespace torch_ronde
