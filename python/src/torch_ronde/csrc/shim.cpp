// What Python calls: makes a backend for a process group of torch.distributed.

#include "backend.hpp"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/library.h>

#include <cstring>

namespace torch_ronde {

// Becomes the backend of the group for tensors of the CPU, with what it has joined.
static void serve(const c10::intrusive_ptr<c10d::ProcessGroup> &group, ronde_group *joined, int64_t rank, int64_t size, int64_t timeout_ms,
                  const std::string &name) {
    auto options = c10::make_intrusive<RondeBackend::Options>(milliseconds(timeout_ms));
    auto backend = c10::make_intrusive<RondeBackend>(joined, static_cast<int>(rank), static_cast<int>(size), name, std::move(options));
    group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, c10::intrusive_ptr<c10d::Backend>(backend));
}

// The members come by reconfigure.
static void attach_later(const c10::intrusive_ptr<c10d::ProcessGroup> &group, int64_t rank, int64_t size, int64_t timeout_ms, const std::string &name) {
    serve(group, nullptr, rank, size, timeout_ms, name);
}

// Joins the job that the id names.
static void attach(const c10::intrusive_ptr<c10d::ProcessGroup> &group, const at::Tensor &id, int64_t rank, int64_t size, int64_t timeout_ms,
                   int64_t join_timeout_ms, const std::string &name) {
    ronde_id where;
    TORCH_CHECK_VALUE(id.scalar_type() == at::kByte && id.is_contiguous() && id.numel() == sizeof where.bytes, "not an id of a job");
    std::memcpy(where.bytes, id.const_data_ptr(), sizeof where.bytes);
    ronde_config config = RONDE_CONFIG_INIT;
    config.id = &where, config.rank = static_cast<int32_t>(rank), config.ranks = static_cast<int32_t>(size);
    config.timeout_ms = timeout_ms, config.connect_timeout_ms = join_timeout_ms;
    ronde_group *joined = nullptr;
    check(ronde_join(&config, &joined));
    serve(group, joined, ronde_rank(joined), ronde_size(joined), timeout_ms, name);
}

} // namespace torch_ronde

TORCH_LIBRARY(torch_ronde, library) {
    library.def("attach(__torch__.torch.classes.c10d.ProcessGroup group, Tensor id, int rank, int size, int timeout_ms, "
                "int join_timeout_ms, str name) -> ()",
                torch_ronde::attach);
    library.def("attach_later(__torch__.torch.classes.c10d.ProcessGroup group, int rank, int size, int timeout_ms, str name) -> ()",
                torch_ronde::attach_later);
}
