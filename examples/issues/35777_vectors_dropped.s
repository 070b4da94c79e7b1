// golang/go issues 35326, 35777: Linux 5.2 built by some compilers lost the vector registers when a
// signal handler returned. Go programs broke since 1.14, which sends many signals, wherever a value
// was in XMM registers. asyncPreempt cannot help: it runs behind that return, and saves what is
// there by then.
//
// Not here: what made the kernel do so, a page fault while it wrote the frame. Go 1.14 and 1.15
// touched the stack beforehand; Linux 5.3.15 mended it.
//
// pushcall: go=1.14
// pushcall broken: kernel-bug=sigreturn-drops-vectors expect=lost:XMM0,XMM1,XMM2,XMM3,XMM4,XMM5,XMM6,XMM7,XMM8,XMM9,XMM10,XMM11,XMM12,XMM13,XMM14,XMM15
// pushcall mended: expect=preserved

#include "textflag.h"

DATA	main·data+0(SB)/8, $0x0123456789abcdef
DATA	main·data+8(SB)/8, $0x0f1e2d3c4b5a6978
GLOBL	main·data(SB), NOPTR, $16

TEXT main·main(SB), NOSPLIT, $0-0
	MOVUPS	main·data(SB), X0
	MOVUPS	X0, X9
	MOVQ	$3, CX
loop:
	PADDQ	X9, X0
	DECQ	CX
	JNE	loop
	MOVUPS	X0, main·data(SB)
	RET
