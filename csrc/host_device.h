// The one macro about compilers: inline functions that both nvcc and the host compiler accept.
#pragma once

#if defined(__CUDACC__)
#define CVLIB_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CVLIB_HOST_DEVICE inline __attribute__((always_inline))
#endif
