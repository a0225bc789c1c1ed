// What c10d and libronde call the same things: errors, element types, reductions.
#pragma once

#include <ronde.h>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include <string>

namespace torch_ronde {

// What went wrong, as c10d's users expect it: a DistBackendError in Python, with the library's whole text.
inline std::exception_ptr error_of(ronde_status status) {
    // Programs that ran with other backends look for this word.
    const std::string text = std::string("Ronde: ") + (status == RONDE_TIMEOUT ? "the timeout of this call has passed: " : "") + ronde_last_error();
    try {
        if (status == RONDE_INVALID_ARGUMENT) C10_THROW_ERROR(ValueError, text);
        C10_THROW_ERROR(DistBackendError, text);
    } catch (...) {
        return std::current_exception();
    }
}

inline void check(ronde_status status) {
    if (status != RONDE_OK) std::rethrow_exception(error_of(status));
}

inline ronde_dtype dtype_of(at::ScalarType type) {
    switch (type) {
    case at::kChar: return RONDE_I8;
    case at::kByte: return RONDE_U8;
    case at::kShort: return RONDE_I16;
    case at::kUInt16: return RONDE_U16;
    case at::kInt: return RONDE_I32;
    case at::kUInt32: return RONDE_U32;
    case at::kLong: return RONDE_I64;
    case at::kUInt64: return RONDE_U64;
    case at::kHalf: return RONDE_F16;
    case at::kBFloat16: return RONDE_BF16;
    case at::kFloat: return RONDE_F32;
    case at::kDouble: return RONDE_F64;
    case at::kBool: return RONDE_BOOL;
    case at::kComplexFloat: return RONDE_C64;
    case at::kComplexDouble: return RONDE_C128;
    case at::kFloat8_e4m3fn: return RONDE_F8E4M3;
    case at::kFloat8_e5m2: return RONDE_F8E5M2;
    default: TORCH_CHECK_TYPE(false, "Ronde has no elements of type ", type);
    }
}

// For what is only moved: of a type that the library does not know its bytes are.
struct Elements {
    ronde_dtype dtype;
    size_t per_element; // of the library's, for one of the tensor's
};

inline Elements moved(at::ScalarType type) {
    switch (type) {
    case at::kFloat8_e4m3fnuz:
    case at::kFloat8_e5m2fnuz: return {RONDE_U8, 1};
    case at::kComplexHalf: return {RONDE_F16, 2};
    case at::kQInt8:
    case at::kQUInt8:
    case at::kQInt32: TORCH_CHECK_TYPE(false, "Ronde moves no quantized tensors: send their int_repr()");
    default: return {dtype_of(type), 1};
    }
}

// A reduction for one call.
class Reduction {
public:
    Reduction(const c10d::ReduceOp &op, at::ScalarType type) {
        using Op = c10d::ReduceOp;
        switch (op.op_) {
        case Op::SUM: number_ = RONDE_SUM; break;
        case Op::AVG: number_ = RONDE_AVG; break;
        case Op::PRODUCT: number_ = RONDE_PROD; break;
        case Op::MIN: number_ = RONDE_MIN; break;
        case Op::MAX: number_ = RONDE_MAX; break;
        case Op::BAND: number_ = RONDE_BAND; break;
        case Op::BOR: number_ = RONDE_BOR; break;
        case Op::BXOR: number_ = RONDE_BXOR; break;
        case Op::PREMUL_SUM: {
            const auto *given = dynamic_cast<const c10d::PreMulSumSupplement *>(op.supplement_.get());
            TORCH_CHECK_VALUE(given != nullptr, "PREMUL_SUM without a factor: use torch.distributed._make_nccl_premul_sum");
            at::Tensor factor = given->tensor_factor.defined() ? given->tensor_factor : at::scalar_tensor(given->double_factor);
            factor = factor.to(at::kCPU, type).contiguous();
            check(ronde_reduction_premulsum(dtype_of(type), factor.const_data_ptr(), &number_));
            break;
        }
        default: TORCH_CHECK_VALUE(false, "Ronde has no such reduction (", static_cast<int>(op.op_), ")");
        }
    }
    Reduction(const Reduction &) = delete;
    Reduction &operator=(const Reduction &) = delete;
    // Ops that were started with it are not disturbed; constants are ignored.
    ~Reduction() { ronde_reduction_free(number_); }

    ronde_reduction number() const { return number_; }

private:
    ronde_reduction number_ = RONDE_SUM;
};

} // namespace torch_ronde
