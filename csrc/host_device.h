// The only macro about compilers: inline functions for both nvcc and the host compiler.
#pragma once

#if defined(__CUDACC__)
#define CVLIB_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CVLIB_HOST_DEVICE inline __attribute__((always_inline))
#endif
