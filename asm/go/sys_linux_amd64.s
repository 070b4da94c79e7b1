// System calls and the signal trampoline. runtime/sys_linux_amd64.s; numbers from Linux's
// arch/x86/entry/syscalls/syscall_64.tbl; the calling convention of SYSCALL from the System V ABI
// (number in RAX, arguments in RDI RSI RDX R10 R8 R9; RCX and R11 are lost).
// Arguments lie on the stack (ABI0), results follow them.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"

#define SYS_write 1
#define SYS_rt_sigaction 13
#define SYS_rt_sigprocmask 14
#define SYS_rt_sigreturn 15
#define SYS_sched_yield 24
#define SYS_nanosleep 35
#define SYS_getpid 39
#define SYS_clone 56
#define SYS_sigaltstack 131
#define SYS_arch_prctl 158
#define SYS_gettid 186
#define SYS_futex 202
#define SYS_exit_group 231
#define SYS_tgkill 234

#define ARCH_SET_FS 0x1002
#define CLONE_SETTLS 0x80000

// func rt_sigaction(sig uintptr, new, old *sigactiont, size uintptr) int32
TEXT runtime·rt_sigaction(SB), NOSPLIT, $0-36
	MOVQ	sig+0(FP), DI
	MOVQ	new+8(FP), SI
	MOVQ	old+16(FP), DX
	MOVQ	size+24(FP), R10
	MOVL	$SYS_rt_sigaction, AX
	SYSCALL
	MOVL	AX, ret+32(FP)
	RET

// func rtsigprocmask(how int32, new, old *sigset, size int32)
TEXT runtime·rtsigprocmask(SB), NOSPLIT, $0-28
	MOVL	how+0(FP), DI
	MOVQ	new+8(FP), SI
	MOVQ	old+16(FP), DX
	MOVL	size+24(FP), R10
	MOVL	$SYS_rt_sigprocmask, AX
	SYSCALL
	RET

// func sigaltstack(new, old *stackt)
TEXT runtime·sigaltstack(SB), NOSPLIT, $0-16
	MOVQ	new+0(FP), DI
	MOVQ	old+8(FP), SI
	MOVL	$SYS_sigaltstack, AX
	SYSCALL
	RET

// func tgkill(tgid, tid, sig int)
TEXT runtime·tgkill(SB), NOSPLIT, $0-24
	MOVQ	tgid+0(FP), DI
	MOVQ	tid+8(FP), SI
	MOVQ	sig+16(FP), DX
	MOVL	$SYS_tgkill, AX
	SYSCALL
	RET

// func getpid() int
TEXT runtime·getpid(SB), NOSPLIT, $0-8
	MOVL	$SYS_getpid, AX
	SYSCALL
	MOVQ	AX, ret+0(FP)
	RET

// The thread's id in AX.
TEXT runtime·gettid_raw(SB), NOSPLIT|NOFRAME, $0
	MOVL	$SYS_gettid, AX
	SYSCALL
	RET

// FS = the argument. The linker's TLS slot of g is at FS:-8.
TEXT runtime·settls(SB), NOSPLIT|NOFRAME, $0
	MOVQ	8(SP), SI
	MOVL	$ARCH_SET_FS, DI
	MOVL	$SYS_arch_prctl, AX
	SYSCALL
	RET

// func usleep(usec uint64)
TEXT runtime·usleep(SB), NOSPLIT, $16-8
	MOVQ	usec+0(FP), AX
	XORL	DX, DX
	MOVL	$1000000, CX
	DIVQ	CX
	MOVQ	AX, 0(SP)	// tv_sec
	IMULQ	$1000, DX
	MOVQ	DX, 8(SP)	// tv_nsec
	MOVQ	SP, DI
	XORL	SI, SI
	MOVL	$SYS_nanosleep, AX
	SYSCALL
	RET

// func futex(addr *uint32, op int32, val uint32, ts, addr2 *uint32, val3 uint32) int32
TEXT runtime·futex(SB), NOSPLIT, $0-44
	MOVQ	addr+0(FP), DI
	MOVL	op+8(FP), SI
	MOVL	val+12(FP), DX
	MOVQ	ts+16(FP), R10
	MOVQ	addr2+24(FP), R8
	MOVL	val3+32(FP), R9
	MOVL	$SYS_futex, AX
	SYSCALL
	MOVL	AX, ret+40(FP)
	RET

// func clone(flags int32, stk, mp, gp, fn unsafe.Pointer) int32
// The child has m's TLS and runs fn on stk, which is its g0's.
TEXT runtime·clone(SB), NOSPLIT|NOFRAME, $0-44
	MOVL	8(SP), DI
	ORL	$CLONE_SETTLS, DI
	MOVQ	16(SP), SI
	XORL	DX, DX
	XORL	R10, R10
	MOVQ	24(SP), R13
	MOVQ	32(SP), R9
	MOVQ	40(SP), R12
	LEAQ	m_tls(R13), R8
	ADDQ	$8, R8	// so that -8(FS) is m.tls[0]
	MOVL	$SYS_clone, AX
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	MOVL	AX, 48(SP)
	RET
child:
	MOVL	$SYS_gettid, AX
	SYSCALL
	MOVQ	AX, m_procid(R13)
	get_tls(CX)
	MOVQ	R13, g_m(R9)
	MOVQ	R9, g(CX)
	MOVQ	R9, R14
	CALL	R12
	UNDEF

// func osyield()
TEXT runtime·osyield(SB), NOSPLIT|NOFRAME, $0
	MOVL	$SYS_sched_yield, AX
	SYSCALL
	RET

// func exit(code int32)
TEXT runtime·exit(SB), NOSPLIT, $0-4
	MOVL	code+0(FP), DI
	MOVL	$SYS_exit_group, AX
	SYSCALL
	UNDEF

// func write1(fd uintptr, p unsafe.Pointer, n int32) int32
TEXT runtime·write1(SB), NOSPLIT, $0-28
	MOVQ	fd+0(FP), DI
	MOVQ	p+8(FP), SI
	MOVL	n+16(FP), DX
	MOVL	$SYS_write, AX
	SYSCALL
	MOVL	AX, ret+24(FP)
	RET

// What the kernel's frame returns to when the handler is done.
TEXT runtime·sigreturn__sigaction(SB), NOSPLIT|NOFRAME, $0
	MOVL	$SYS_rt_sigreturn, AX
	SYSCALL
	UNDEF

// The handler that the kernel calls, with C's convention (DI = sig, SI = info, DX = context), on
// the gsignal stack. C's callee-saved registers are kept, as for any C caller.
TEXT runtime·sigtramp(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	PUSHQ	BX
	PUSHQ	BP
	PUSHQ	R12
	PUSHQ	R13
	PUSHQ	R14
	PUSHQ	R15
	CLD
	ADJSP	$24
	MOVQ	DI, 0(SP)
	MOVQ	SI, 8(SP)
	MOVQ	DX, 16(SP)
#ifdef go1_17
	get_tls(R12)
	MOVQ	g(R12), R14
	PXOR	X15, X15
	MOVQ	DI, AX
	MOVQ	SI, BX
	MOVQ	DX, CX
#endif
	CALL	runtime·sigtrampgo(SB)
	ADJSP	$-24
	POPQ	R15
	POPQ	R14
	POPQ	R13
	POPQ	R12
	POPQ	BP
	POPQ	BX
	RET
