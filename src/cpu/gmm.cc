// Grouped GEMM on the CPU: the plain loops that say what the operators mean,
// and a loop over groups around the caller's own matmul (the torch binding
// lends PyTorch's: src/torch/matmul.cc), which is the fast way.
#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/door.h"
#include "cpu/parallel.h"

namespace gg::cpu {
namespace {

int64_t entry(const GroupSizes& groups, int64_t e) {
  return groups.dtype == DType::kInt32 ? static_cast<const int32_t*>(groups.data)[e]
                                       : static_cast<const int64_t*>(groups.data)[e];
}

// body(e, begin, end) for each group's rows, then body(-1, ...) for the rest.
template <typename Body>
void for_each_group(const GroupSizes& groups, int64_t num_rows, const Body& body) {
  int64_t begin = 0;
  for (int64_t e = 0; e < groups.num_groups; ++e) {
    const int64_t end = groups.cumulative ? entry(groups, e) : begin + entry(groups, e);
    body(e, begin, end);
    begin = end;
  }
  body(int64_t{-1}, begin, num_rows);
}

template <typename T>
const T* at(const TensorView& tensor, int64_t i, int64_t j) {
  return static_cast<const T*>(tensor.data) + i * tensor.stride(0) + j * tensor.stride(1);
}

template <typename T, typename Out>
void gmm_rows(const GmmProblem& problem, int64_t e, int64_t begin, int64_t end) {
  using Acc = Accumulator<T>;
  const int64_t num_k = e < 0 ? 0 : problem.tokens.size(1);  // rows of no group are zeros
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t n = 0; n < problem.out.size(1); ++n) {
      Acc sum = 0;
      const T* token = at<T>(problem.tokens, t, 0);
      const T* weight = at<T>(problem.weights, std::max<int64_t>(e, 0), n);
      for (int64_t k = 0; k < num_k; ++k) {
        sum += convert<Acc>(token[k * problem.tokens.stride(1)]) *
               convert<Acc>(weight[k * problem.weights.stride(2)]);
      }
      *const_cast<Out*>(at<Out>(problem.out, t, n)) = convert<Out>(sum);
    }
  }
}

template <typename T, typename Out>
void wgrad_features(const GmmWgradProblem& problem, int64_t e, int64_t first_row, int64_t last_row,
                    int64_t begin, int64_t end) {
  using Acc = Accumulator<T>;
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t k = 0; k < problem.out.size(2); ++k) {
      Acc sum = 0;
      for (int64_t t = first_row; t < last_row; ++t) {
        sum += convert<Acc>(*at<T>(problem.dy, t, n)) * convert<Acc>(*at<T>(problem.tokens, t, k));
      }
      Out& out = *const_cast<Out*>(at<Out>(problem.out, e, n) + k * problem.out.stride(2));
      out = convert<Out>(problem.accumulate ? convert<Acc>(out) + sum : sum);
    }
  }
}

// Calls function(Tag<T>{}, Tag<Out>{}); Out is T or float.
template <typename Function>
void with_types(DType in, DType out, const Function& function) {
  with_float_type(in, [&](auto tag) {
    if (in == out) {
      function(tag, tag);
    } else {
      function(tag, Tag<float>{});
    }
  });
}

// Rows [begin, end) of a matrix; a matrix of a batch.
TensorView rows(const TensorView& matrix, int64_t begin, int64_t end) {
  TensorView result = matrix;
  result.sizes[0] = end - begin;
  result.data = static_cast<char*>(matrix.data) + begin * matrix.stride(0) * size_of(matrix.dtype);
  return result;
}

TensorView matrix_of(const TensorView& batch, int64_t e) {
  return view(static_cast<char*>(batch.data) + e * batch.stride(0) * size_of(batch.dtype),
              batch.dtype, {batch.size(1), batch.size(2)}, {batch.stride(1), batch.stride(2)});
}

void fill_zeros(const TensorView& matrix) {
  const size_t bytes = static_cast<size_t>(size_of(matrix.dtype));
  char* data = static_cast<char*>(matrix.data);
  for (int64_t i = 0; i < matrix.size(0); ++i) {
    for (int64_t j = 0; j < matrix.size(1); ++j) {
      const int64_t element = i * matrix.stride(0) + j * matrix.stride(1);
      std::memset(data + element * static_cast<int64_t>(bytes), 0, bytes);
    }
  }
}

void gmm_by_matmul(const GmmProblem& problem, Matmul matmul) {
  const bool has_reduction = problem.tokens.size(1) > 0;
  for_each_group(problem.groups, problem.out.size(0), [&](int64_t e, int64_t begin, int64_t end) {
    if (begin == end) return;
    const TensorView out = rows(problem.out, begin, end);
    if (e < 0 || !has_reduction) return fill_zeros(out);
    matmul(rows(problem.tokens, begin, end), transposed(matrix_of(problem.weights, e)), out, false);
  });
}

void gmm_wgrad_by_matmul(const GmmWgradProblem& problem, Matmul matmul) {
  for_each_group(problem.groups, problem.dy.size(0), [&](int64_t e, int64_t begin, int64_t end) {
    if (e < 0) return;
    const TensorView out = matrix_of(problem.out, e);
    if (begin < end) {
      matmul(transposed(rows(problem.dy, begin, end)), rows(problem.tokens, begin, end), out,
             problem.accumulate);
    } else if (!problem.accumulate) {
      fill_zeros(out);
    }
  });
}

}  // namespace

void gmm(const GmmPlan& plan, const GmmProblem& problem, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  if (stream.matmul != nullptr) return gmm_by_matmul(problem, stream.matmul);
  with_types(problem.tokens.dtype, problem.out.dtype, [&](auto in, auto out) {
    for_each_group(problem.groups, problem.out.size(0),
                   [&](int64_t e, int64_t first, int64_t last) {
                     parallel_for(stream, last - first, 1, [&](int64_t begin, int64_t end) {
                       gmm_rows<typename decltype(in)::type, typename decltype(out)::type>(
                           problem, e, first + begin, first + end);
                     });
                   });
  });
}

void gmm_wgrad(const GmmPlan& plan, const GmmWgradProblem& problem, Stream stream) {
  if (plan.path == Path::kReference) stream = serial_stream();
  if (stream.matmul != nullptr) return gmm_wgrad_by_matmul(problem, stream.matmul);
  with_types(problem.dy.dtype, problem.out.dtype, [&](auto in, auto out) {
    for_each_group(problem.groups, problem.dy.size(0), [&](int64_t e, int64_t first, int64_t last) {
      if (e < 0 || (problem.accumulate && first == last)) return;
      parallel_for(stream, problem.out.size(1), 1, [&](int64_t begin, int64_t end) {
        wgrad_features<typename decltype(in)::type, typename decltype(out)::type>(problem, e, first,
                                                                                  last, begin, end);
      });
    });
  });
}

}  // namespace gg::cpu
