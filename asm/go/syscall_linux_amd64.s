// A system call that may wait (syscall/asm_linux_amd64.s of Go up to 1.18; the same steps since), and
// exitsyscall where there is no P to go on with (runtime/proc.go). Decisions are gates into Python.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"
#include "funcdata.h"

// func Syscall(trap, a1, a2, a3 uintptr) (r1, r2, err uintptr)
TEXT syscall·Syscall(SB), NOSPLIT, $0-56
	NO_LOCAL_POINTERS
	CALL	runtime·entersyscall(SB)
	MOVQ	a1+8(FP), DI
	MOVQ	a2+16(FP), SI
	MOVQ	a3+24(FP), DX
	MOVQ	trap+0(FP), AX
	SYSCALL
	CMPQ	AX, $0xfffffffffffff001	// -4095: errors are -errno
	JLS	ok
	MOVQ	$-1, r1+32(FP)
	MOVQ	$0, r2+40(FP)
	NEGQ	AX
	MOVQ	AX, err+48(FP)
	JMP	leave
ok:
	MOVQ	AX, r1+32(FP)
	MOVQ	DX, r2+40(FP)
	MOVQ	$0, err+48(FP)
leave:
	CALL	runtime·exitsyscall(SB)
	RET

TEXT runtime·exitsyscall(SB), NOSPLIT, $16-0
	NO_LOCAL_POINTERS
	// The ABI0 wrapper's part: g in R14, X15 zero.
	get_tls(CX)
	MOVQ	g(CX), R14
#ifdef go1_17
	XORPS	X15, X15
#endif
	CALL	runtime·exitsyscall·fast(SB)	// AX = the func value to call without a P, or 0
	TESTQ	AX, AX
	JEQ	done
	MOVQ	AX, 0(SP)
	CALL	runtime·mcall(SB)
	CALL	runtime·exitsyscall·end(SB)
done:
	RET

DATA	runtime·exitsyscall0·f(SB)/8, $runtime·exitsyscall0(SB)
GLOBL	runtime·exitsyscall0·f(SB), RODATA|NOPTR, $8
